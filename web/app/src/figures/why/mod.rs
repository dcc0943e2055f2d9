//! Figure 6, Why does it work? Almost all images are nothing (`space`), the garments lie in clusters
//! (`clusters`), and noise decides which one a picture becomes, early (`branches`).

mod branches;
mod clusters;
mod space;

use std::rc::Rc;

use web_sys::HtmlButtonElement;

use crate::{
    data,
    dom::{self, find},
    figures::sampling,
    page::Page,
};

/// Starts the figure: its three parts share the map.
///
/// # Errors
/// Where the map cannot be loaded; random images can be drawn all the same.
pub async fn mount(page: Page) -> Result<(), String> {
    let space = space::mount();
    let (button, desk) = (find::<HtmlButtonElement>("why-sample"), page.desk().clone());
    let follow = {
        let button = button.clone();
        move || button.set_disabled(!desk.is_ready() || sampling::is_busy())
    };
    follow();
    page.watch(follow.clone());
    sampling::watch(follow);
    dom::listen(&button, "click", |_| sampling::press_sample());
    let branches = branches::mount(&page);
    let map = data::map("why-load").await?;
    space.borrow_mut().compare_with(Rc::clone(&map));
    branches::classify_by(&branches, Rc::clone(&map));
    clusters::mount(&page, map);
    Ok(())
}

//! Figure 8, Real or sampled? Twenty pictures to judge, half of them sampled a moment ago.

use std::{cell::RefCell, rc::Rc};

use fashion_ddpm::{Gallery, sampler::to_pixels};
use protocol::{EngineKind, Picture};
use wasm_bindgen::JsCast;
use wasm_bindgen_futures::spawn_local;
use web_sys::{
    Element, HtmlButtonElement, HtmlCanvasElement, HtmlInputElement, HtmlOptionElement,
    HtmlProgressElement, HtmlSelectElement,
};

use crate::{
    canvas::put_grey,
    data,
    desk::{Control, End, Job, News},
    dom::{self, find, set_attribute, set_text},
    figures::note,
    map::from_pixels,
    page::Page,
    quiz::{ALL, EACH, Origin, Round, by_chance},
    store::PIXELS,
};

/// Steps of DDPM where there is no graphics card: ten pictures in about the time that one takes.
const FEW_STEPS: u32 = 100;

/// Starts the figure.
///
/// # Errors
/// None before somebody begins: the test images are loaded then.
pub async fn mount(page: Page) -> Result<(), String> {
    let quiz = Rc::new(RefCell::new(Quiz::new(page.clone())));
    listen(&quiz);
    let watcher = quiz.clone();
    page.watch(move || {
        if let Ok(quiz) = watcher.try_borrow() {
            quiz.render();
        }
    });
    quiz.borrow().render();
    Ok(())
}

type Shared = Rc<RefCell<Quiz>>;

struct Quiz {
    page: Page,
    epoch: HtmlSelectElement,
    begin: HtmlButtonElement,
    stop: HtmlButtonElement,
    progress: HtmlProgressElement,
    cards: Element,
    result: Element,
    table: Element,
    /// The round, and the pictures that were sampled for it.
    round: Option<(Round, Vec<u8>)>,
    test: Option<Rc<Gallery>>,
    control: Option<Control>,
    sampling: bool,
}

impl Quiz {
    fn new(page: Page) -> Self {
        Self {
            page,
            epoch: find("quiz-epoch"),
            begin: find("quiz-begin"),
            stop: find("quiz-stop"),
            progress: find("quiz-progress"),
            cards: find("quiz-cards"),
            result: find("quiz-result"),
            table: find("quiz-table"),
            round: None,
            test: None,
            control: None,
            sampling: false,
        }
    }

    fn render(&self) {
        if let (Some(index), 0) = (self.page.desk().index(), self.epoch.length()) {
            for model in &index.models {
                let word = model.epoch.to_string();
                if let Ok(option) = HtmlOptionElement::new_with_text_and_value(&word, &word) {
                    let _ = self.epoch.append_child(&option);
                }
            }
            if let Some(epoch) = self.page.desk().preferred() {
                self.epoch.set_value(&epoch.to_string());
            }
        }
        let ready = self.page.desk().is_ready();
        self.begin.set_disabled(!ready || self.sampling);
        self.epoch.set_disabled(!ready || self.sampling);
        self.stop.set_disabled(!self.sampling);
        self.progress.set_hidden(!self.sampling);
        let word = if self.round.is_some() {
            "Another round"
        } else {
            "Begin"
        };
        set_text(&self.begin, word);
    }

    /// Shows the pictures of a new round, to be judged.
    fn deal(&mut self, round: Round, sampled: Vec<u8>) {
        let cards = (1..=round.pictures().len()).map(|i| {
            format!(
                "<fieldset class=\"judged\"><legend>Picture {i}</legend>\
                 <canvas id=\"quiz-{i}\" role=\"img\" aria-label=\"Picture {i}\" aria-describedby=\"quiz-{i}-verdict\" width=\"28\" height=\"28\"></canvas>\
                 <label><input type=\"radio\" name=\"quiz-{i}\" value=\"real\"> Real</label>\
                 <label><input type=\"radio\" name=\"quiz-{i}\" value=\"sampled\"> Sampled</label>\
                 <p id=\"quiz-{i}-verdict\" class=\"verdict\"></p></fieldset>"
            )
        });
        self.cards.set_inner_html(&cards.collect::<String>());
        for (i, origin) in round.pictures().iter().enumerate() {
            let canvas: HtmlCanvasElement = find(&format!("quiz-{}", i + 1));
            let pixels = match (origin, &self.test) {
                (Origin::Real(image), Some(test)) => test.pixels(*image),
                (Origin::Real(_), None) => &[],
                (Origin::Sampled(image), _) => &sampled[image * PIXELS..(image + 1) * PIXELS],
            };
            put_grey(&canvas, &from_pixels(pixels));
        }
        set_text(
            &self.result,
            &format!("{} to judge.", round.pictures().len()),
        );
        self.round = Some((round, sampled));
    }

    /// Somebody has judged a picture.
    fn answer(&mut self, picture: usize, real: bool) {
        let Some((round, _)) = &mut self.round else {
            return;
        };
        round.answer(picture, real);
        match round.left() {
            0 => self.reveal(),
            left => set_text(&self.result, &format!("{left} to judge.")),
        }
    }

    /// All are judged: what they are, and what that is worth.
    fn reveal(&self) {
        let (Some((round, _)), Some(test)) = (&self.round, &self.test) else {
            return;
        };
        let cards = self.cards.children();
        for (i, origin) in round.pictures().iter().enumerate() {
            let Some(card) = cards.item(i as u32) else {
                continue;
            };
            let right = round.is_right(i) == Some(true);
            set_attribute(
                &card,
                "class",
                if right {
                    "judged right"
                } else {
                    "judged wrong"
                },
            );
            let what = match origin {
                Origin::Real(image) => format!("real: {}", test.labels()[*image].name()),
                Origin::Sampled(_) => "sampled".to_owned(),
            };
            if let Ok(Some(verdict)) = card.query_selector(".verdict") {
                let mark = if right { "✓" } else { "✗" };
                set_text(&verdict, &format!("{mark} {what}"));
            }
            if let Ok(inputs) = card.query_selector_all("input") {
                for input in (0..inputs.length()).filter_map(|i| inputs.get(i)) {
                    input
                        .unchecked_into::<HtmlInputElement>()
                        .set_disabled(true);
                }
            }
        }
        let (score, all) = (round.score(), round.pictures().len());
        let chance = 100.0 * by_chance(score, all);
        let text = format!(
            "{score} of {all} right. Tossing a coin gets {} on average, and {score} or more in \
             {chance:.1} % of all games; {}",
            all / 2,
            match chance {
                chance if chance < 5.0 => "you can tell them apart.",
                _ => "this is hardly more than guessing.",
            }
        );
        set_text(&self.result, &text);
        let row = dom::document().create_element("tr");
        if let Ok(row) = row {
            row.set_inner_html(&format!(
                "<th scope=\"row\">{}</th><td>{score} of {all}</td><td>{chance:.1} %</td>",
                round.epoch
            ));
            let _ = self.table.append_child(&row);
        }
        if let Ok(Some(table)) = self.table.closest("table") {
            let _ = table.remove_attribute("hidden");
        }
    }

    /// What is asked of the engine: [`EACH`] new pictures by the chosen weights.
    fn job(&self) -> Option<Job> {
        let desk = self.page.desk();
        let timesteps = self.page.schedule().timesteps() as u32;
        let fast = desk.engine() == Some(EngineKind::WebGpu)
            && desk
                .device()
                .is_some_and(|device| !device.contains("software"));
        Some(Job {
            picture: Picture {
                seed: dom::any_seed(),
                garment: "any".to_owned(),
                sampler: "ddpm".to_owned(),
                steps: if fast {
                    timesteps
                } else {
                    FEW_STEPS.min(timesteps)
                },
                guidance: 1.0,
                count: EACH as u32,
            },
            epoch: Some(self.epoch.value().parse().ok()?),
            start: None,
        })
    }
}

async fn play(quiz: Shared) {
    let (job, page, progress) = {
        let mut this = quiz.borrow_mut();
        let Some(job) = this.job() else { return };
        this.sampling = true;
        this.progress.set_value(0.0);
        this.render();
        (job, this.page.clone(), this.progress.clone())
    };
    let (epoch, steps, seed) = (
        job.epoch.unwrap_or_default(),
        job.picture.steps,
        job.picture.seed,
    );
    let text =
        format!("Sampling {EACH} pictures: DDPM with {steps} steps, epoch {epoch}, seed {seed}.");
    note("real-or-sampled", &text, false);
    let mut run = page.desk().start(job, false);
    quiz.borrow_mut().control = Some(run.control());
    let outcome: Result<Vec<f32>, End> = loop {
        match run.next().await {
            Ok(News::Started(_)) => {}
            Ok(News::Frames { first, x_t, .. }) => {
                let frames = first + x_t.len() / (EACH * PIXELS);
                progress.set_value(frames as f64 / f64::from(steps));
            }
            Ok(News::Done { x_0, .. }) => break Ok(x_0),
            Err(end) => break Err(end),
        }
    };
    // After the run: what it costs does not delay the engine's work.
    let test = match &outcome {
        Ok(_) => Some(data::test_images("quiz-load").await),
        Err(_) => None,
    };
    let mut this = quiz.borrow_mut();
    this.sampling = false;
    // Whoever pressed Stop has taken it.
    let stopped = this.control.take().is_none();
    match (outcome, test) {
        (Ok(x_0), Some(Ok(test))) => {
            let count = test.len();
            this.test = Some(test);
            this.deal(Round::new(epoch, count, dom::any_seed()), to_pixels(&x_0));
            let text = format!(
                "{EACH} of these {ALL} were sampled just now (DDPM, {steps} steps, epoch {epoch}, seed \
                 {seed}), {EACH} are photographs of the test set."
            );
            note("real-or-sampled", &text, false);
        }
        (_, Some(Err(reason))) => note("real-or-sampled", &reason, true),
        (Err(_), _) if stopped => note("real-or-sampled", "Stopped.", false),
        (Err(end), _) => note("real-or-sampled", &end.to_string(), end != End::Taken),
        (Ok(_), None) => {}
    }
    this.render();
}

fn listen(quiz: &Shared) {
    let this = quiz.borrow();
    let shared = quiz.clone();
    dom::listen(&this.begin, "click", move |_| {
        spawn_local(play(shared.clone()))
    });
    let shared = quiz.clone();
    dom::listen(&this.stop, "click", move |_| {
        let control = shared.borrow_mut().control.take();
        if let Some(control) = control {
            control.stop();
        }
    });
    let shared = quiz.clone();
    dom::listen(&this.cards, "change", move |event| {
        let input = event
            .target()
            .and_then(|target| target.dyn_into::<HtmlInputElement>().ok());
        let Some(input) = input else { return };
        let number = input.name().trim_start_matches("quiz-").parse::<usize>();
        if let Some(picture) = number.ok().and_then(|number| number.checked_sub(1)) {
            shared.borrow_mut().answer(picture, input.value() == "real");
        }
    });
}

//! The ten classes of Fashion-MNIST, and the null label.

use serde::{Deserialize, Serialize};

/// A class of Fashion-MNIST (Xiao et al. 2017), in the order of the data set's labels.
///
/// Where a label may be left out, `Option<Garment>` is used: `None` is the null label of
/// classifier-free guidance, called `any` in commands and links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Garment {
    /// Label 0, a T-shirt or top.
    TShirt,
    /// Label 1.
    Trouser,
    /// Label 2.
    Pullover,
    /// Label 3.
    Dress,
    /// Label 4.
    Coat,
    /// Label 5.
    Sandal,
    /// Label 6.
    Shirt,
    /// Label 7.
    Sneaker,
    /// Label 8.
    Bag,
    /// Label 9.
    AnkleBoot,
}

impl Garment {
    /// All classes, by label.
    pub const ALL: [Self; 10] = [
        Self::TShirt,
        Self::Trouser,
        Self::Pullover,
        Self::Dress,
        Self::Coat,
        Self::Sandal,
        Self::Shirt,
        Self::Sneaker,
        Self::Bag,
        Self::AnkleBoot,
    ];

    /// The word for it in commands and links.
    pub fn slug(self) -> &'static str {
        match self {
            Self::TShirt => "t-shirt",
            Self::Trouser => "trouser",
            Self::Pullover => "pullover",
            Self::Dress => "dress",
            Self::Coat => "coat",
            Self::Sandal => "sandal",
            Self::Shirt => "shirt",
            Self::Sneaker => "sneaker",
            Self::Bag => "bag",
            Self::AnkleBoot => "ankle-boot",
        }
    }

    /// The word for it in text.
    pub fn name(self) -> &'static str {
        match self {
            Self::TShirt => "T-shirt",
            Self::Trouser => "Trouser",
            Self::Pullover => "Pullover",
            Self::Dress => "Dress",
            Self::Coat => "Coat",
            Self::Sandal => "Sandal",
            Self::Shirt => "Shirt",
            Self::Sneaker => "Sneaker",
            Self::Bag => "Bag",
            Self::AnkleBoot => "Ankle boot",
        }
    }

    /// The label in the data set, 0 to 9.
    pub fn label(self) -> usize {
        self as usize
    }

    /// The class of a label; `None` where there is no such label.
    pub fn from_label(label: usize) -> Option<Self> {
        Self::ALL.get(label).copied()
    }
}

/// A word that names no class.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no garment: use any, {list}", list = Garment::ALL.map(Garment::slug).join(", "))]
pub struct UnknownGarment(pub String);

/// Reads a slug; `any` is the null label.
///
/// # Errors
/// [`UnknownGarment`] names the words there are.
pub fn parse_garment(slug: &str) -> Result<Option<Garment>, UnknownGarment> {
    if slug == "any" {
        return Ok(None);
    }
    Garment::ALL
        .into_iter()
        .find(|garment| garment.slug() == slug)
        .map(Some)
        .ok_or_else(|| UnknownGarment(slug.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_slugs_are_the_data_sets() {
        for (label, garment) in Garment::ALL.into_iter().enumerate() {
            assert_eq!(garment.label(), label);
            assert_eq!(Garment::from_label(label), Some(garment));
            assert_eq!(parse_garment(garment.slug()), Ok(Some(garment)));
            let json = serde_json::to_string(&garment).unwrap();
            assert_eq!(json, format!("{:?}", garment.slug()), "serde speaks slugs");
        }
        assert_eq!(Garment::from_label(10), None);
        assert_eq!(parse_garment("any"), Ok(None));
        let error = parse_garment("hat").unwrap_err().to_string();
        assert!(
            error.contains("hat") && error.contains("ankle-boot"),
            "{error}"
        );
    }
}

//! Networks by name: `unshuffle=2,channels=64-128,blocks=1,attention=7`.

use fashion_ddpm::{UNetConfig, unet::ConfigError};

/// Why words describe no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// A part that is not understood.
    #[error(
        "`{0}` says nothing about a network; write unshuffle=2,channels=64-64,blocks=1,attention=7, or some of it"
    )]
    Part(String),
    /// JSON of something else.
    #[error("this is no network in JSON: {0}")]
    Json(String),
    /// No such network.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Reads a network from a list of what differs from the default: `unshuffle` is the side of the
/// squares of pixels folded by the stem, `channels` those of each resolution, `blocks` how many a
/// resolution has on each way, `attention` the widths in pixels at which there is some (`none`, or
/// 7 where it is left out), `groups` those of the normalisations. JSON as a weights file has it is
/// understood too.
///
/// # Errors
/// [`NetworkError`] names the part that is not understood, or the number that does not fit.
pub fn parse(text: &str) -> Result<UNetConfig, NetworkError> {
    if text.trim_start().starts_with('{') {
        let config: UNetConfig =
            serde_json::from_str(text).map_err(|error| NetworkError::Json(error.to_string()))?;
        config.validate()?;
        return Ok(config);
    }
    let mut config = UNetConfig::default();
    let mut attention = vec![7];
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let wrong = || NetworkError::Part(part.to_owned());
        let (key, value) = part.split_once('=').ok_or_else(wrong)?;
        let number = || value.parse().map_err(|_| wrong());
        let numbers = || -> Result<Vec<usize>, NetworkError> {
            let words = value.split('-');
            words
                .map(|word| word.parse().map_err(|_| wrong()))
                .collect()
        };
        match key {
            "unshuffle" => config.pixel_unshuffle = number()?,
            "channels" => config.channels = numbers()?,
            "blocks" => config.blocks = number()?,
            "attention" if value == "none" => attention.clear(),
            "attention" => attention = numbers()?,
            "groups" => config.groups = number()?,
            _ => return Err(wrong()),
        }
    }
    let widths = widths(&config);
    if let Some(width) = attention.iter().find(|width| !widths.contains(width))
        && attention != [7]
    {
        let part = format!("attention={width}");
        return Err(NetworkError::Part(part));
    }
    config.attention = widths
        .iter()
        .map(|width| attention.contains(width))
        .collect();
    config.validate()?;
    Ok(config)
}

/// What [`parse`] reads, in full.
pub fn name(config: &UNetConfig) -> String {
    let list = |numbers: Vec<usize>| match numbers.is_empty() {
        true => "none".to_owned(),
        false => numbers
            .iter()
            .map(usize::to_string)
            .collect::<Vec<_>>()
            .join("-"),
    };
    let switches = widths(config).into_iter().zip(&config.attention);
    let attention = switches.filter_map(|(width, on)| on.then_some(width));
    let mut name = format!(
        "unshuffle={},channels={},blocks={},attention={}",
        config.pixel_unshuffle,
        list(config.channels.clone()),
        config.blocks,
        list(attention.collect()),
    );
    if config.groups != UNetConfig::default().groups {
        name += &format!(",groups={}", config.groups);
    }
    name
}

/// Width in pixels of each resolution.
fn widths(config: &UNetConfig) -> Vec<usize> {
    let first = config.image_size / config.pixel_unshuffle.max(1);
    (0..config.channels.len())
        .map(|level| first >> level.min(63))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_networks_and_networks_names() {
        let default = "unshuffle=2,channels=64-64,blocks=1,attention=7";
        assert_eq!(parse(default).unwrap(), UNetConfig::default());
        assert_eq!(parse("").unwrap(), UNetConfig::default());
        assert_eq!(name(&UNetConfig::default()), default);
        let wide = parse("unshuffle=1,channels=32-64-128,blocks=2,attention=14-7").unwrap();
        assert_eq!(wide.pixel_unshuffle, 1);
        assert_eq!(wide.channels, [32, 64, 128]);
        assert_eq!(wide.blocks, 2);
        assert_eq!(wide.attention, [false, true, true]);
        assert_eq!(parse(&name(&wide)).unwrap(), wide);
        // No resolution is 7 pixels wide, and nobody asked for attention there.
        let shallow = parse("unshuffle=1,channels=32-32,groups=4").unwrap();
        assert_eq!(shallow.attention, [false, false]);
        assert_eq!(parse(&name(&shallow)).unwrap(), shallow);
        let json = serde_json::to_string(&wide).unwrap();
        assert_eq!(parse(&json).unwrap(), wide);
    }

    #[test]
    fn what_is_no_network_is_named() {
        for (text, word) in [
            ("channels", "channels"),
            ("channels=64-x", "channels=64-x"),
            ("depth=3", "depth=3"),
            ("attention=5", "attention=5"),
            ("attention=28-7", "attention=28"),
            ("channels=60", "multiple"),
            ("unshuffle=3", "divide"),
            ("unshuffle=0", "divide"),
            ("blocks=0", "blocks"),
            ("{}", "JSON"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}

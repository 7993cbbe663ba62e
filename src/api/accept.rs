//! `Accept` and `Accept-Encoding`: what a client takes, and how gladly (RFC 9110 §12).

/// What a header lists, with the weight of each from 0 to 1000; weights that cannot be read count as 0.
pub(super) fn weighted(header: &str) -> Vec<(String, u16)> {
    let entry = |text: &str| {
        let mut parts = text.split(';').map(str::trim);
        let name = parts.next().filter(|name| !name.is_empty())?.to_ascii_lowercase();
        let weight = parts.find_map(|part| {
            let (key, value) = part.split_once('=')?;
            key.trim().eq_ignore_ascii_case("q").then(|| parse_weight(value.trim()))
        });
        Some((name, weight.unwrap_or(1000)))
    };
    header.split(',').filter_map(entry).collect()
}

/// `1`, `0.5` or `0.333` in thousandths.
fn parse_weight(text: &str) -> u16 {
    let weight = text.parse::<f32>().unwrap_or(0.0);
    let thousandths = (weight.clamp(0.0, 1.0) * 1000.0).round();
    // A number from 0 to 1000, or 0 for what is no number.
    format!("{thousandths}").parse().unwrap_or(0)
}

/// The encodings that answers are kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Zstd,
    Gzip,
}

impl Encoding {
    /// All of them, the better ones first.
    pub(super) const ALL: [Self; 2] = [Self::Zstd, Self::Gzip];

    /// The word on the wire.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }

    /// The encoding that a client likes best, as `Accept-Encoding` says; none where it likes the plain text better.
    pub(super) fn preferred(header: &str) -> Option<Self> {
        let listed = weighted(header);
        let weight_of = |name: &str| {
            let find = |wanted: &str| listed.iter().find(|(known, _)| known == wanted).map(|(_, weight)| *weight);
            find(name).or_else(|| find("*"))
        };
        let plain = weight_of("identity").unwrap_or(1);
        let offers = Self::ALL.into_iter().filter_map(|encoding| Some((weight_of(encoding.as_str())?, encoding)));
        // Of equal ones the first.
        let best =
            offers.filter(|(weight, _)| *weight > 0).reduce(|best, next| if next.0 > best.0 { next } else { best });
        best.filter(|(weight, _)| *weight >= plain).map(|(_, encoding)| encoding)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_read() {
        let listed = weighted("text/CSV;q=0.5, a/b ; charset=x;Q=1 , */*;q=0,,c;q=x,d;q=7,e;q=0.3333");
        let expected = [("text/csv", 500), ("a/b", 1000), ("*/*", 0), ("c", 0), ("d", 1000), ("e", 333)];
        assert_eq!(listed, expected.map(|(name, weight)| (name.to_owned(), weight)));
    }

    #[test]
    fn encodings_are_chosen_by_weight() {
        let preferred = |header| Encoding::preferred(header).map(Encoding::as_str);
        assert_eq!(preferred("gzip, deflate, br, zstd"), Some("zstd"));
        assert_eq!(preferred("gzip"), Some("gzip"));
        assert_eq!(preferred("zstd;q=0.5, gzip"), Some("gzip"));
        assert_eq!(preferred("*"), Some("zstd"));
        assert_eq!(preferred("*, zstd;q=0"), Some("gzip"));
        assert_eq!(preferred("gzip;q=0.2, identity"), None);
        assert_eq!(preferred("gzip;q=0"), None);
        assert_eq!(preferred("br"), None);
        assert_eq!(preferred(""), None);
    }
}

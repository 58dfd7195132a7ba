//! What was probably meant by a name that is not known.

/// Longest name that is repeated in an answer, in characters.
const MAX_SHOWN: usize = 64;

/// `unknown field `evnts`; did you mean `events`?`
pub(crate) fn unknown(what: &str, name: &str, known: &[&str]) -> String {
    let shown: String = name.chars().take(MAX_SHOWN).collect();
    match closest(name, known) {
        Some(meant) => format!("unknown {what} `{shown}`; did you mean `{meant}`?"),
        None if known.is_empty() => format!("unknown {what} `{shown}`; there are none"),
        None => format!("unknown {what} `{shown}`; known are {}", known.join(", ")),
    }
}

/// What serde says of an unknown field, with a hint, and the field's name; `None` for everything else it says.
pub(crate) fn of_serde(message: &str, what: &str) -> Option<(String, String)> {
    let (_, rest) = message.split_once("unknown field `")?;
    // The name is the client's, and may itself look like serde's words.
    let (name, known) = match rest.rsplit_once("`, expected ") {
        Some((name, expected)) => (name, expected.split('`').skip(1).step_by(2).collect()),
        None => (rest.rsplit_once("`, there are no fields")?.0, Vec::new()),
    };
    Some((name.chars().take(MAX_SHOWN).collect(), unknown(what, name, &known)))
}

/// The nearest of the known names, if one is near: a slip in three letters, and letters in capitals or not.
fn closest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let name: Vec<char> =
        name.chars().take(MAX_SHOWN).flat_map(char::to_lowercase).filter(|c| *c != '_').collect();
    let candidates = known.iter().map(|candidate| {
        let letters: Vec<char> = candidate.chars().flat_map(char::to_lowercase).collect();
        (distance(&name, &letters), letters.len(), *candidate)
    });
    let near = candidates.filter(|(distance, length, _)| *distance <= length.div_ceil(3));
    near.min_by_key(|(distance, ..)| *distance).map(|(.., candidate)| candidate)
}

/// How many letters to insert, delete, replace or swap with their neighbour to get from one to the other.
fn distance(from: &[char], to: &[char]) -> usize {
    let mut before_last = vec![0; to.len() + 1];
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut current = vec![i + 1];
        for (j, b) in to.iter().enumerate() {
            let replaced = last[j] + usize::from(a != b);
            let mut best = replaced.min(last[j + 1] + 1).min(current[j] + 1);
            if i > 0 && j > 0 && *a == to[j - 1] && from[i - 1] == *b {
                best = best.min(before_last[j - 1] + 1);
            }
            current.push(best);
        }
        before_last = std::mem::replace(&mut last, current);
    }
    last[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_counts_slips() {
        let between =
            |a: &str, b: &str| distance(&a.chars().collect::<Vec<_>>(), &b.chars().collect::<Vec<_>>());
        for (a, b, slips) in [
            ("", "", 0),
            ("", "abc", 3),
            ("events", "events", 0),
            ("evnts", "events", 1),
            ("evetns", "events", 1),
            ("eventss", "events", 1),
            ("ebents", "events", 1),
            ("kitten", "sitting", 3),
            ("größe", "grösse", 2),
        ] {
            assert_eq!(between(a, b), slips, "{a} {b}");
            assert_eq!(between(b, a), slips, "{b} {a}");
        }
    }

    #[test]
    fn a_near_name_is_suggested_and_a_far_one_is_not() {
        let known = ["url", "events", "rateLimit", "isActive"];
        for (name, meant) in [
            ("evnts", Some("events")),
            ("Events", Some("events")),
            ("rate_limit", Some("rateLimit")),
            ("is_active", Some("isActive")),
            ("uri", Some("url")),
            ("", None),
            ("secretKey", None),
        ] {
            assert_eq!(closest(name, &known), meant, "{name}");
        }
    }

    #[test]
    fn what_serde_says_becomes_a_hint() {
        let said = "unknown field `evnts`, expected one of `url`, `events` at line 1 column 8";
        let (name, hint) = of_serde(said, "field").unwrap();
        assert_eq!(
            (name.as_str(), hint.as_str()),
            ("evnts", "unknown field `evnts`; did you mean `events`?")
        );
        let hostile = "unknown field `x`, expected `y`, expected `url` or `events` at line 1 column 8";
        assert_eq!(
            of_serde(hostile, "field").unwrap().1,
            "unknown field `x`, expected `y`; known are url, events"
        );
        let none = "unknown field `x`, there are no fields";
        assert_eq!(
            of_serde(none, "query parameter").unwrap().1,
            "unknown query parameter `x`; there are none"
        );
        assert_eq!(of_serde("invalid type: null, expected a string", "field"), None);
    }
}

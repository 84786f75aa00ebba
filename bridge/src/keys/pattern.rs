//! Patterns of agent ids: `*` stands for any text, also for none.

use schemas::mqtt::is_agent_id;

/// Whether this can be a pattern: an agent id, or one in which `*` stands for parts.
pub(super) fn is_pattern(text: &str) -> bool {
    is_agent_id(text)
}

/// Whether the id fits the pattern. Takes time in proportion to both lengths multiplied, at most.
pub(super) fn matches(pattern: &str, id: &str) -> bool {
    let (pattern, id) = (pattern.as_bytes(), id.as_bytes());
    let (mut p, mut i) = (0, 0);
    // After the latest star, and how far the text under it reaches.
    let mut retry: Option<(usize, usize)> = None;
    while i < id.len() {
        if p < pattern.len() && pattern[p] == b'*' {
            p += 1;
            retry = Some((p, i));
        } else if p < pattern.len() && pattern[p] == id[i] {
            p += 1;
            i += 1;
        } else if let Some((after, under)) = retry {
            retry = Some((after, under + 1));
            p = after;
            i = under + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The meaning, written down without regard for time.
    fn meaning(pattern: &[u8], id: &[u8]) -> bool {
        match pattern.split_first() {
            None => id.is_empty(),
            Some((b'*', rest)) => (0..=id.len()).any(|from| meaning(rest, &id[from..])),
            Some((byte, rest)) => id.first() == Some(byte) && meaning(rest, &id[1..]),
        }
    }

    proptest! {
        #[test]
        fn patterns_mean_what_they_say(pattern in "[ab*]{0,6}", id in "[ab]{0,8}") {
            prop_assert_eq!(matches(&pattern, &id), meaning(pattern.as_bytes(), id.as_bytes()));
        }
    }

    #[test]
    fn a_prefix_is_not_enough() {
        assert!(matches("plant-*", "plant-7") && matches("*", "x") && matches("a", "a"));
        assert!(!matches("plant-*", "plant") && !matches("a", "ab") && !matches("a", "A"));
    }
}

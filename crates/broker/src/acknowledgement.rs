use std::collections::BTreeSet;

/// The broker numbers the deliveries of a channel from here.
const FIRST_TAG: u64 = 1;

/// One acknowledgement to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Acknowledgement {
    pub(crate) tag: u64,
    /// Whether it covers everything below its tag as well.
    pub(crate) multiple: bool,
}

/// Which deliveries of a channel are done with: one acknowledgement covers all up to the first that is not. Each is a
/// command of its own to the quorum queue, and a write to its log.
pub(crate) struct Acknowledgements {
    /// Everything below is done with.
    first_open: u64,
    /// What is done with above it.
    done: BTreeSet<u64>,
}

impl Default for Acknowledgements {
    fn default() -> Self {
        Self { first_open: FIRST_TAG, done: BTreeSet::new() }
    }
}

impl Acknowledgements {
    /// What to send for the deliveries that are done with now. One that waits behind another's dead letter does not wait.
    pub(crate) fn of(&mut self, tags: &[u64]) -> Vec<Acknowledgement> {
        self.done.extend(tags);
        while self.done.remove(&self.first_open) {
            self.first_open += 1;
        }
        // Not simply the last that is done with: the broker refuses a tag that it was told of before.
        let covered = tags.iter().filter(|tag| **tag < self.first_open).max();
        let covered = covered.map(|tag| Acknowledgement { tag: *tag, multiple: true });
        let alone = tags.iter().filter(|tag| **tag > self.first_open);
        covered.into_iter().chain(alone.map(|tag| Acknowledgement { tag: *tag, multiple: false })).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_covers_all_that_were_done_in_turn() {
        let mut acknowledgements = Acknowledgements::default();
        assert_eq!(acknowledgements.of(&[1, 2, 3]), [Acknowledgement { tag: 3, multiple: true }]);
        assert_eq!(
            acknowledgements.of(&[5, 7]),
            [Acknowledgement { tag: 5, multiple: false }, Acknowledgement { tag: 7, multiple: false }]
        );
        assert_eq!(acknowledgements.of(&[4]), [Acknowledgement { tag: 4, multiple: true }]);
        assert_eq!(acknowledgements.of(&[6, 8]), [Acknowledgement { tag: 8, multiple: true }]);
    }

    proptest! {
        #[test]
        fn the_broker_hears_of_each_once_and_of_none_too_early(
            order in Just((1..=40_u64).collect::<Vec<_>>()).prop_shuffle(),
            sizes in prop::collection::vec(1..8_usize, 40),
        ) {
            let mut acknowledgements = Acknowledgements::default();
            let mut open: BTreeSet<u64> = (1..=40).collect();
            let mut done: BTreeSet<u64> = BTreeSet::new();
            let mut rest = order.as_slice();
            for size in sizes {
                let (now, later) = rest.split_at(size.min(rest.len()));
                rest = later;
                done.extend(now);
                for Acknowledgement { tag, multiple } in acknowledgements.of(now) {
                    prop_assert!(open.contains(&tag), "{} is not known", tag);
                    open.retain(|other| *other != tag && !(multiple && *other < tag));
                }
                let expected: BTreeSet<u64> = (1..=40).filter(|tag| !done.contains(tag)).collect();
                prop_assert_eq!(&open, &expected);
            }
        }
    }
}

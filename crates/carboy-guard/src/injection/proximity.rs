//! D13–D15: how near two lists of spans come to each other.

use std::ops::Range;

/// The nearest pair: indices into the two lists and the gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Index into the first list.
    pub a: usize,
    /// Index into the second list.
    pub b: usize,
    /// D13: units between them, 0 when they overlap or touch.
    pub gap: usize,
}

/// D13.
pub fn gap(a: &Range<usize>, b: &Range<usize>) -> usize {
    a.start.max(b.start).saturating_sub(a.end.min(b.end))
}

/// D14: the pair with the least gap, by one sweep over both lists in order: O(n log n), never n × m, since the page
/// that is scanned chooses how many matches there are. D15: with `within`, the first pair that near will do.
pub fn closest_pair(a: &[Range<usize>], b: &[Range<usize>], within: Option<usize>) -> Option<Pair> {
    let order = |list: &[Range<usize>]| {
        let mut order: Vec<usize> = (0..list.len()).collect();
        order.sort_by_key(|&i| (list[i].start, list[i].end));
        order
    };
    let (order_a, order_b) = (order(a), order(b));
    let (mut i, mut j) = (0, 0);
    let mut best: Option<Pair> = None;
    while let (Some(&x), Some(&y)) = (order_a.get(i), order_b.get(j)) {
        let pair = Pair { a: x, b: y, gap: gap(&a[x], &b[y]) };
        if best.is_none_or(|best| pair.gap < best.gap) {
            best = Some(pair);
        }
        if pair.gap == 0 || within.is_some_and(|within| pair.gap <= within) {
            return best;
        }
        // What ends first cannot come nearer to anything later in the other list.
        if a[x].end <= b[y].end {
            i += 1;
        } else {
            j += 1;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn d13_the_gap_is_zero_when_spans_overlap_or_touch() {
        assert_eq!((gap(&(0..5), &(3..9)), gap(&(0..5), &(5..9)), gap(&(7..9), &(0..5))), (0, 0, 2));
    }

    #[test]
    fn d14_an_empty_list_has_no_pair() {
        assert_eq!(closest_pair(&[], &[Range { start: 0, end: 1 }], None), None);
    }

    #[test]
    fn d14_sixteen_thousand_by_sixteen_thousand_is_a_sweep() {
        // Far apart and never touching, so that nothing ends the sweep early; 256 million pairs otherwise.
        let a: Vec<_> = (0..16_000).map(|i| i * 100..i * 100 + 10).collect();
        let b: Vec<_> = (0..16_000).map(|i| i * 100 + 50..i * 100 + 60).collect();
        for _ in 0..50 {
            assert_eq!(closest_pair(&a, &b, None).map(|pair| pair.gap), Some(40));
        }
    }

    fn spans() -> impl Strategy<Value = Vec<Range<usize>>> {
        proptest::collection::vec((0usize..3000, 0usize..80).prop_map(|(start, len)| start..start + len), 0..14)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5000))]
        #[test]
        fn d14_d15_the_sweep_decides_as_the_definition_does(a in spans(), b in spans()) {
            let minimum = a.iter().flat_map(|x| b.iter().map(move |y| gap(x, y))).min();
            prop_assert_eq!(closest_pair(&a, &b, None).map(|pair| pair.gap), minimum);
            for within in [0, 5, 50, 500] {
                let near = closest_pair(&a, &b, Some(within)).is_some_and(|pair| pair.gap <= within);
                prop_assert_eq!(near, minimum.is_some_and(|gap| gap <= within));
            }
        }
    }
}

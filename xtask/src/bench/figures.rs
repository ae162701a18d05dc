//! Numbers: order statistics, and how they are written in a table.

/// The value below which this part of them lies; the nearest rank. 0 when there are none.
pub fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

/// The middle one.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// Three digits that count, and thousands apart.
pub fn short(value: f64) -> String {
    match value.abs() {
        1000.0.. => {
            let digits = format!("{:.0}", value.abs());
            let groups: Vec<&str> =
                digits.as_bytes().rchunks(3).rev().filter_map(|g| std::str::from_utf8(g).ok()).collect();
            format!("{}{}", if value < 0.0 { "-" } else { "" }, groups.join(","))
        }
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// One line of a table.
pub fn row<S: AsRef<str>>(cells: &[S]) -> String {
    let cells: Vec<&str> = cells.iter().map(AsRef::as_ref).collect();
    format!("| {} |\n", cells.join(" | "))
}

/// The head of a table: names to the left, numbers to the right.
pub fn head(cells: &[&str]) -> String {
    let rule: Vec<&str> = (0..cells.len()).map(|column| if column == 0 { "---" } else { "---:" }).collect();
    format!("{}{}", row(cells), row(&rule))
}

/// A goal and whether it was reached.
pub fn goal(what: &str, figure: &str, reached: bool) -> String {
    row(&[what, figure, if reached { "reached" } else { "**missed**" }])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_nearest_rank() {
        let values: Vec<f64> = (1..=40).rev().map(f64::from).collect();
        assert_eq!((quantile(&values, 0.0), median(&values), quantile(&values, 0.95)), (1.0, 20.0, 38.0));
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    fn numbers_keep_three_digits() {
        assert_eq!([0.1234, 12.34, 123.4, 12_345.6].map(short), ["0.12", "12.3", "123", "12,346"]);
        assert_eq!([1_234_567.0, -1234.5, -0.5].map(short), ["1,234,567", "-1,234", "-0.50"]);
    }
}

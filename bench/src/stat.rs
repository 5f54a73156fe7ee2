//! Medians and spread.

/// Numbers of one kind, from repeated runs.
#[derive(Clone, Debug, Default)]
pub struct Sample(Vec<f64>);

impl Sample {
    /// Adds one.
    pub fn push(&mut self, value: f64) {
        let at = self.0.partition_point(|v| *v < value);
        self.0.insert(at, value);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The value below which the fraction `q` lies; 0 of nothing.
    pub fn quantile(&self, q: f64) -> f64 {
        let Some(last) = self.0.len().checked_sub(1) else {
            return 0.0;
        };
        let at = q * last as f64;
        let (low, high) = (at.floor(), at.ceil());
        let value = |at: f64| self.0[at as usize];
        value(low) + (value(high) - value(low)) * (at - low)
    }

    /// The middle one.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// Smallest and largest.
    pub fn span(&self) -> (f64, f64) {
        (self.quantile(0.0), self.quantile(1.0))
    }
}

/// Median, and quartiles in brackets.
pub fn spread(sample: &Sample, digits: usize) -> String {
    if sample.len() == 0 {
        return "-".to_owned();
    }
    let (low, high) = (sample.quantile(0.25), sample.quantile(0.75));
    format!(
        "{:.digits$} ({low:.digits$} .. {high:.digits$})",
        sample.median()
    )
}

impl FromIterator<f64> for Sample {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut all: Vec<f64> = values.into_iter().collect();
        all.sort_by(f64::total_cmp);
        Self(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_the_numbers_around_them() {
        let sample: Sample = [4.0, 1.0, 3.0, 2.0].into_iter().collect();
        assert_eq!(sample.median(), 2.5);
        assert_eq!(sample.span(), (1.0, 4.0));
        assert_eq!(spread(&sample, 2), "2.50 (1.75 .. 3.25)");
        assert_eq!(spread(&Sample::default(), 2), "-");
    }
}

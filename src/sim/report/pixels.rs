//! Long series on few pixels, without losing a spike: each pixel keeps what came first, last, lowest and highest in it.

use crate::units::count_f64;

/// What one pixel shows.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Pixel {
    /// Where it begins, from 0 to below 1.
    pub at: f64,
    /// The first value.
    pub first: f64,
    /// The lowest value.
    pub low: f64,
    /// The highest value.
    pub high: f64,
    /// The last value.
    pub last: f64,
}

/// `values`, equally far apart, on at most `width` pixels. What is no number is a gap: a pixel without any value is
/// left out.
pub fn pixels(values: impl ExactSizeIterator<Item = f64>, width: usize) -> Vec<Pixel> {
    let count = values.len();
    let width = width.min(count).max(1);
    let mut shown: Vec<Pixel> = Vec::with_capacity(width);
    let mut open = None;
    for (place, value) in values.enumerate() {
        if value.is_nan() {
            continue;
        }
        let pixel = place * width / count;
        if open == Some(pixel)
            && let Some(last) = shown.last_mut()
        {
            last.low = last.low.min(value);
            last.high = last.high.max(value);
            last.last = value;
            continue;
        }
        open = Some(pixel);
        let at = count_f64(pixel) / count_f64(width);
        shown.push(Pixel { at, first: value, low: value, high: value, last: value });
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn short_series_stay_as_they_are() {
        let shown = pixels([3.0, f64::NAN, 5.0].into_iter(), 10);
        assert_eq!(shown.len(), 2);
        assert_eq!((shown[0].at, shown[0].first), (0.0, 3.0));
        assert_eq!((shown[1].at, shown[1].last), (2.0 / 3.0, 5.0));
        assert_eq!(pixels([].into_iter(), 10), []);
    }

    proptest! {
        #[test]
        fn no_spike_is_lost(values in proptest::collection::vec(0_u32..1000, 1..3000), width in 1_usize..400) {
            let shown = pixels(values.iter().map(|value| f64::from(*value)), width);
            prop_assert!(shown.len() <= width);
            let highest = shown.iter().map(|pixel| pixel.high).fold(0.0, f64::max);
            let lowest = shown.iter().map(|pixel| pixel.low).fold(f64::MAX, f64::min);
            prop_assert_eq!(Some(highest), values.iter().max().map(|value| f64::from(*value)));
            prop_assert_eq!(Some(lowest), values.iter().min().map(|value| f64::from(*value)));
            prop_assert!(shown.windows(2).all(|two| two[0].at < two[1].at));
        }
    }
}

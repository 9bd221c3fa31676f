//! One plot: axes in HTML, so that their text keeps its size at any width, and shapes in SVG that stretch between them.

use super::pixels::Pixel;
use crate::units::count_f64;
use std::fmt::Write as _;

/// The width and height of the drawing, in its own units.
const SIZE: f64 = 1000.0;

/// An axis.
#[derive(Clone, Debug)]
pub struct Axis {
    low: f64,
    high: f64,
    logarithmic: bool,
    ticks: Vec<(f64, String)>,
}

impl Axis {
    /// From 0 to at least `high`, with round steps, told by `name`.
    pub fn linear(high: f64, name: impl Fn(f64) -> String) -> Self {
        let high = if high > 0.0 { high } else { 1.0 };
        let step = round_step(high / 4.0);
        let top = (high / step).ceil() * step;
        let mut ticks = Vec::new();
        let mut at = 0.0;
        while at <= top * 1.000_1 {
            ticks.push((at, name(at)));
            at += step;
        }
        Self { low: 0.0, high: top, logarithmic: false, ticks }
    }

    /// From `low` to `high`, both positive, between round numbers, told by `name`.
    pub fn logarithmic(low: f64, high: f64, name: impl Fn(f64) -> String) -> Self {
        let low = low.max(1e-9);
        let high = high.max(low * 1.5);
        // 1, 2 and 5 of each power of ten from below the low end to above the high one.
        let mut round: Vec<f64> = Vec::new();
        let mut power = low.log10().floor();
        while power <= high.log10().ceil() {
            round.extend([1.0, 2.0, 5.0].map(|times| times * 10.0_f64.powf(power)));
            power += 1.0;
        }
        let first = round.iter().rposition(|value| *value <= low * 1.000_1).unwrap_or(0);
        let last = round.iter().position(|value| *value >= high * 0.999_9).unwrap_or(round.len() - 1);
        let inside = &round[first..=last.max(first + 1)];
        let tens = |value: &f64| (value.log10() - value.log10().round()).abs() < 1e-9;
        let all = inside.len() <= 8;
        let ticks = inside.iter().filter(|value| all || tens(value)).map(|value| (*value, name(*value))).collect();
        Self { low: inside[0], high: inside[inside.len() - 1], logarithmic: true, ticks }
    }

    /// So many seconds of a run, `from` on.
    pub fn time(from: f64, length: f64) -> Self {
        const STEPS: &[f64] = &[
            10.0,
            30.0,
            60.0,
            120.0,
            300.0,
            600.0,
            1200.0,
            1800.0,
            3600.0,
            7200.0,
            10_800.0,
            21_600.0,
            43_200.0,
            86_400.0,
            172_800.0,
            604_800.0,
            1_209_600.0,
            2_592_000.0,
            31_536_000.0,
        ];
        let step = STEPS.iter().copied().find(|step| length / step <= 8.0).unwrap_or(length.max(1.0));
        let mut ticks = Vec::new();
        let mut at = (from / step).ceil() * step;
        while at <= from + length * 1.000_1 {
            ticks.push((at, clock(at)));
            at += step;
        }
        Self { low: from, high: from + length.max(1e-9), logarithmic: false, ticks }
    }

    /// Where a value lies, from 0 to 1. What is outside lies at the edge.
    pub fn at(&self, value: f64) -> f64 {
        let part = if self.logarithmic {
            (value.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        part.clamp(0.0, 1.0)
    }
}

/// A step of 1, 2 or 5 times a power of ten, at least `wanted`.
fn round_step(wanted: f64) -> f64 {
    let power = 10.0_f64.powf(wanted.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|times| times * power).find(|step| *step >= wanted * 0.999).unwrap_or(wanted)
}

/// A time since the start of a run: `40s`, `12m`, `1:30`, `2d 6:00`.
pub fn clock(seconds: f64) -> String {
    let whole = format!("{seconds:.0}").parse::<u64>().unwrap_or(0);
    let (days, hours, minutes, left) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60, whole % 60);
    match (days, hours, minutes, left) {
        (0, 0, 0, left) => format!("{left}s"),
        (0, 0, minutes, 0) => format!("{minutes}m"),
        (0, 0, minutes, left) => format!("{minutes}m{left}s"),
        (0, hours, minutes, _) => format!("{hours}:{minutes:02}"),
        (days, 0, 0, _) => format!("{days}d"),
        (days, hours, minutes, _) => format!("{days}d {hours}:{minutes:02}"),
    }
}

/// A plot being drawn.
#[derive(Clone, Debug)]
pub struct Plot {
    x: Axis,
    y: Axis,
    body: String,
}

impl Plot {
    /// An empty one.
    pub fn new(x: Axis, y: Axis) -> Self {
        Self { x, y, body: String::new() }
    }

    fn left(&self, value: f64) -> f64 {
        self.x.at(value) * SIZE
    }

    fn top(&self, value: f64) -> f64 {
        (1.0 - self.y.at(value)) * SIZE
    }

    /// A line through every pixel of a series that fills the width, in steps.
    pub fn steps(&mut self, series: &[Pixel], class: &str) {
        let mut path = Path::default();
        for pixel in series {
            let left = pixel.at * SIZE;
            path.across(left, self.top(pixel.first));
            for value in [pixel.low, pixel.high, pixel.last] {
                path.reach(self.top(value));
            }
        }
        if !series.is_empty() {
            path.move_to(SIZE);
        }
        self.path(&path.text, class);
    }

    /// What lies below the highest of every pixel.
    pub fn area(&mut self, series: &[Pixel], class: &str) {
        let Some(first) = series.first() else { return };
        let mut path = Path::default();
        path.across(first.at * SIZE, SIZE);
        for pixel in series {
            path.move_to(pixel.at * SIZE);
            path.reach(self.top(pixel.high));
        }
        path.move_to(SIZE);
        path.reach(SIZE);
        path.text.push('z');
        self.path(&path.text, class);
    }

    /// A line between points.
    pub fn line(&mut self, points: impl Iterator<Item = (f64, f64)>, class: &str) {
        let mut text = String::new();
        for (x, y) in points {
            let verb = if text.is_empty() { 'M' } else { 'L' };
            let _ = write!(text, "{verb}{} {}", short(self.left(x)), short(self.top(y)));
        }
        self.path(&text, class);
    }

    /// A line for each pixel's own value, broken where a pixel is missing, through its highest value.
    pub fn broken(&mut self, series: &[Pixel], width: usize, class: &str) {
        let step = SIZE / count_f64(width.max(1));
        let mut text = String::new();
        let mut before = f64::NEG_INFINITY;
        for pixel in series {
            let left = pixel.at * SIZE + step / 2.0;
            let verb = if left - before > step * 1.5 { 'M' } else { 'L' };
            let _ = write!(text, "{verb}{} {}", short(left), short(self.top(pixel.high)));
            if verb == 'M' {
                // A lone minute is still seen.
                text.push_str("h0");
            }
            before = left;
        }
        self.path(&text, class);
    }

    /// A dot.
    pub fn dot(&mut self, x: f64, y: f64, class: &str, title: &str) {
        let _ = write!(
            self.body,
            "<path class=\"{class}\" d=\"M{} {}h0\"><title>{}</title></path>",
            short(self.left(x)),
            short(self.top(y)),
            escape(title)
        );
    }

    /// Bands over the whole height, from one part of the width to another.
    pub fn bands(&mut self, bands: &[(f64, f64)], class: &str) {
        let mut text = String::new();
        for (from, to) in bands {
            let (left, right) = (from * SIZE, to * SIZE);
            let _ = write!(text, "M{} 0V1000H{}V0z", short(left), short(right.max(left + 0.7)));
        }
        self.path(&text, class);
    }

    /// Ticks at the bottom, at parts of the width.
    pub fn ticks(&mut self, at: &[f64], class: &str) {
        let mut text = String::new();
        for at in at {
            let _ = write!(text, "M{} 1000v-70", short(at * SIZE));
        }
        self.path(&text, class);
    }

    /// A line from left to right.
    pub fn level(&mut self, y: f64, class: &str) {
        let top = short(self.top(y));
        self.path(&format!("M0 {top}H1000"), class);
    }

    /// A line from bottom to top.
    pub fn upright(&mut self, x: f64, class: &str) {
        let left = short(self.left(x));
        self.path(&format!("M{left} 0V1000"), class);
    }

    fn path(&mut self, text: &str, class: &str) {
        if !text.is_empty() {
            let _ = write!(self.body, "<path class=\"{class}\" d=\"{text}\"/>");
        }
    }

    /// The plot as HTML, so many pixels high, described for those who do not see it.
    pub fn html(self, height: u32, label: &str) -> String {
        let mut grid = String::new();
        let mut ys = String::new();
        for (value, name) in &self.y.ticks {
            let top = self.top(*value);
            let _ = write!(grid, "M0 {}H1000", short(top));
            let _ = write!(ys, "<span style=\"top:{}%\">{}</span>", short(top / 10.0), escape(name));
        }
        let mut xs = String::new();
        for (place, (value, name)) in self.x.ticks.iter().enumerate() {
            let left = self.left(*value);
            let _ = write!(grid, "M{} 0V1000", short(left));
            // The last one would stand out of the page.
            let class = match place % 2 {
                _ if left > 960.0 => " class=\"end\"",
                1 => " class=\"odd\"",
                _ => "",
            };
            let _ = write!(xs, "<span{class} style=\"left:{}%\">{}</span>", short(left / 10.0), escape(name));
        }
        format!(
            "<div class=\"figure\"><div class=\"plot\" style=\"--height:{height}px\"><div class=\"ys\">{ys}</div><svg viewBox=\"0 0 1000 \
             1000\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{}\"><path class=\"grid\" \
             d=\"{grid}\"/>{}</svg>\
             <div class=\"xs\">{xs}</div></div></div>",
            escape(label),
            self.body
        )
    }
}

/// A path of horizontal and vertical lines, which says nothing twice.
#[derive(Debug, Default)]
struct Path {
    text: String,
    left: String,
    top: String,
}

impl Path {
    fn across(&mut self, left: f64, top: f64) {
        if self.text.is_empty() {
            (self.left, self.top) = (short(left), short(top));
            self.text = format!("M{} {}", self.left, self.top);
        } else {
            self.move_to(left);
            self.reach(top);
        }
    }

    fn move_to(&mut self, left: f64) {
        // It is written when the height changes there.
        self.left = short(left);
        if self.left == "1000" {
            self.text.push_str("H1000");
        }
    }

    fn reach(&mut self, top: f64) {
        let top = short(top);
        if top != self.top {
            let _ = write!(self.text, "H{}V{top}", self.left);
            self.top = top;
        }
    }
}

/// A number with at most one decimal.
fn short(value: f64) -> String {
    let text = format!("{value:.1}");
    let text = text.strip_suffix(".0").unwrap_or(&text);
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

/// Text as it may stand in HTML, in an attribute too.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::report::pixels::pixels;

    #[test]
    fn axes_have_round_ticks() {
        let names = |axis: &Axis| axis.ticks.iter().map(|(_, name)| name.clone()).collect::<Vec<_>>();
        let plain = |value: f64| format!("{value}");
        assert_eq!(names(&Axis::linear(7.3, plain)), ["0", "2", "4", "6", "8"]);
        assert_eq!(names(&Axis::linear(0.0, plain)).first().map(String::as_str), Some("0"));
        assert_eq!(names(&Axis::logarithmic(0.03, 3.0, plain)), ["0.02", "0.05", "0.1", "0.2", "0.5", "1", "2", "5"]);
        let shares = |value: f64| format!("{value:.0e}");
        assert_eq!(
            names(&Axis::logarithmic(1e-6, 1.0, shares)),
            ["1e-6", "1e-5", "1e-4", "1e-3", "1e-2", "1e-1", "1e0"]
        );
        assert_eq!(names(&Axis::time(0.0, 1800.0)), ["0s", "5m", "10m", "15m", "20m", "25m", "30m"]);
        assert_eq!(names(&Axis::time(0.0, 86_400.0)).last().map(String::as_str), Some("1d"));
    }

    #[test]
    fn a_spike_of_one_line_is_drawn_to_its_height() {
        let values = (0..50_000).map(|place| if place == 31_234 { 100.0 } else { 1.0 });
        let mut plot = Plot::new(Axis::time(0.0, 100_000.0), Axis::linear(100.0, |value| format!("{value}")));
        plot.steps(&pixels(values.collect::<Vec<_>>().into_iter(), 1000), "ready");
        assert!(plot.body.contains("H624V0V990") || plot.body.contains("V0H624V990"), "{}", plot.body);
    }

    #[test]
    fn text_cannot_break_out() {
        assert_eq!(escape("<a href=\"x\">'&"), "&lt;a href=&quot;x&quot;&gt;&#39;&amp;");
    }
}

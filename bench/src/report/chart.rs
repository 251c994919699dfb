//! Charts as SVG. Colours are the page's.

use std::fmt::Write;

use crate::output::digits;

/// Values against something, a curve for each series.
pub struct Chart {
    pub title: String,
    /// What is across, and what is up.
    pub note: String,
    pub across: Axis,
    pub up: Axis,
    pub series: Vec<Series>,
}

pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// What an axis counts, all of it on a logarithmic scale but time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Axis {
    /// Powers of two are marked.
    Bytes,
    /// Powers of ten are.
    Decades,
    Milliseconds,
}

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 28.0;
/// Width of a name in the legend, and height of its lines.
const LEGEND_COLUMN: f64 = 160.0;
const LEGEND_LINE: f64 = 18.0;
/// Colours of the page.
const COLOURS: usize = 8;
/// Marks on an axis at most.
const MARKS_MAX: usize = 8;

/// From values to places between two ends of an axis.
struct Scale {
    axis: Axis,
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Scale {
    fn over(axis: Axis, values: impl Iterator<Item = f64> + Clone, from: f64, to: f64) -> Scale {
        let positions = values.map(|it| axis.position(it));
        let low = positions.clone().fold(f64::INFINITY, f64::min);
        let high = positions.fold(f64::NEG_INFINITY, f64::max);
        let (low, high) = if low.is_finite() {
            (low, high)
        } else {
            (0.0, 1.0)
        };
        let (low, high) = match axis {
            Axis::Decades => (low.floor(), high.ceil()),
            _ => (low, high),
        };
        let high = if high > low { high } else { low + 1.0 };
        Scale {
            axis,
            low,
            high,
            from,
            to,
        }
    }

    fn place(&self, value: f64) -> f64 {
        let part = (self.axis.position(value) - self.low) / (self.high - self.low);
        self.from + part * (self.to - self.from)
    }

    /// Values that are marked.
    fn marks(&self) -> Vec<f64> {
        if self.axis == Axis::Milliseconds {
            let step = [0.1, 0.2, 0.5]
                .iter()
                .flat_map(|step| (0..6).map(move |power| step * 10f64.powi(power)));
            let fits = |step: &f64| (self.high - self.low) / step <= MARKS_MAX as f64;
            let step = step.filter(fits).fold(f64::INFINITY, f64::min);
            let first = (self.low / step).ceil();
            let marks = (0..=MARKS_MAX).map(|number| (first + number as f64) * step);
            return marks.filter(|&mark| mark <= self.high).collect();
        }
        let powers = (self.low.ceil() as i32)..=(self.high.floor() as i32);
        let every = powers.clone().count().div_ceil(MARKS_MAX).max(1);
        let base: f64 = if self.axis == Axis::Bytes { 2.0 } else { 10.0 };
        powers
            .step_by(every)
            .map(|power| base.powi(power))
            .collect()
    }
}

impl Axis {
    fn position(self, value: f64) -> f64 {
        match self {
            Axis::Bytes => value.max(1.0).log2(),
            Axis::Decades => value.max(1e-3).log10(),
            Axis::Milliseconds => value,
        }
    }

    fn label(self, value: f64) -> String {
        match self {
            Axis::Bytes => bytes(value as usize),
            Axis::Decades if value >= 1e6 => format!("{}M", value / 1e6),
            Axis::Decades if value >= 1e4 => format!("{}k", value / 1e3),
            _ => format!("{value}"),
        }
    }
}

/// `64`, `4K`, `1M`.
pub fn bytes(bytes: usize) -> String {
    match bytes {
        it if it >= 1 << 20 && it.is_multiple_of(1 << 20) => format!("{}M", it >> 20),
        it if it >= 1 << 10 && it.is_multiple_of(1 << 10) => format!("{}K", it >> 10),
        it => it.to_string(),
    }
}

impl Chart {
    pub fn section(&self) -> String {
        section(&self.title, &self.note, &self.svg())
    }

    fn svg(&self) -> String {
        let points = || self.series.iter().flat_map(|series| series.points.iter());
        let columns = ((WIDTH - LEFT) / LEGEND_COLUMN) as usize;
        let legend = self.series.len().div_ceil(columns) as f64 * LEGEND_LINE;
        let bottom = HEIGHT - BOTTOM;
        let across = Scale::over(self.across, points().map(|it| it.0), LEFT, WIDTH - RIGHT);
        let up = Scale::over(self.up, points().map(|it| it.1), bottom, TOP);
        let mut svg = svg_head(HEIGHT + legend);
        for mark in up.marks() {
            let y = up.place(mark);
            line(&mut svg, "grid", (LEFT, y), (WIDTH - RIGHT, y));
            text(
                &mut svg,
                "end",
                LEFT - 8.0,
                y + 4.0,
                "",
                &self.up.label(mark),
            );
        }
        for mark in across.marks() {
            let x = across.place(mark);
            line(&mut svg, "grid", (x, TOP), (x, bottom));
            text(
                &mut svg,
                "middle",
                x,
                bottom + 18.0,
                "",
                &self.across.label(mark),
            );
        }
        for (number, series) in self.series.iter().enumerate() {
            let places = series
                .points
                .iter()
                .map(|&(x, y)| format!("{:.1},{:.1}", across.place(x), up.place(y)));
            let places = places.collect::<Vec<_>>().join(" ");
            let colour = number % COLOURS;
            let _ = write!(
                svg,
                r#"<polyline class="curve" style="stroke:var(--c{colour})" points="{places}"/>"#
            );
            let x = LEFT + (number % columns) as f64 * LEGEND_COLUMN;
            let y = HEIGHT + (number / columns) as f64 * LEGEND_LINE + 8.0;
            let _ = write!(
                svg,
                r#"<rect x="{x}" y="{}" width="18" height="4" style="fill:var(--c{colour})"/>"#,
                y - 6.0
            );
            text(&mut svg, "start", x + 24.0, y, "name", &series.name);
        }
        svg + "</svg>"
    }
}

/// Ratios, a bar each, from 1 to the right where it is above; on a logarithmic scale.
pub fn bars(title: &str, note: &str, ratios: &[(String, f64)]) -> String {
    const NAMES: f64 = 210.0;
    const LINE: f64 = 20.0;
    let mut svg = svg_head(ratios.len() as f64 * LINE + 28.0);
    let values = ratios.iter().map(|it| it.1).chain([0.5, 2.0]);
    let mut scale = Scale::over(Axis::Decades, values.clone(), NAMES + 48.0, WIDTH - 44.0);
    // Not to whole decades: ratios are near 1.
    scale.low = values
        .clone()
        .fold(f64::INFINITY, f64::min)
        .max(1e-3)
        .log10();
    scale.high = values.fold(0.0, f64::max).log10();
    let bottom = ratios.len() as f64 * LINE;
    let one = scale.place(1.0);
    for (number, (name, ratio)) in ratios.iter().enumerate() {
        let y = number as f64 * LINE;
        let end = scale.place(*ratio);
        let (from, width) = (one.min(end), (end - one).abs().max(1.0));
        let colour = if *ratio >= 1.0 { 4 } else { 3 };
        text(&mut svg, "end", NAMES - 8.0, y + 14.0, "name", name);
        let _ = write!(
            svg,
            r#"<rect x="{from:.1}" y="{}" width="{width:.1}" height="12" style="fill:var(--c{colour})"/>"#,
            y + 4.0
        );
        let (anchor, x) = if *ratio >= 1.0 {
            ("start", end + 5.0)
        } else {
            ("end", end - 5.0)
        };
        text(&mut svg, anchor, x, y + 14.0, "", &digits(*ratio));
    }
    line(&mut svg, "one", (one, 0.0), (one, bottom + 4.0));
    text(&mut svg, "middle", one, bottom + 20.0, "", "1");
    section(title, note, &(svg + "</svg>"))
}

fn section(title: &str, note: &str, svg: &str) -> String {
    format!(
        "<section><h2>{}</h2><p>{}</p>{svg}</section>\n",
        escaped(title),
        escaped(note)
    )
}

fn svg_head(height: f64) -> String {
    format!(r#"<svg viewBox="0 0 {WIDTH} {height}" role="img">"#)
}

fn line(svg: &mut String, class: &str, from: (f64, f64), to: (f64, f64)) {
    let ((x1, y1), (x2, y2)) = (from, to);
    let _ = write!(
        svg,
        r#"<line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#
    );
}

fn text(svg: &mut String, anchor: &str, x: f64, y: f64, class: &str, words: &str) {
    let words = escaped(words);
    let _ = write!(
        svg,
        r#"<text class="{class}" text-anchor="{anchor}" x="{x:.1}" y="{y:.1}">{words}</text>"#
    );
}

pub fn escaped(words: &str) -> String {
    words
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_has_a_curve_and_a_name() {
        let series = |name: &str| Series {
            name: name.into(),
            points: vec![(1.0, 2.0), (1024.0, 9.0)],
        };
        let chart = Chart {
            title: "<t>".into(),
            note: String::new(),
            across: Axis::Bytes,
            up: Axis::Decades,
            series: vec![
                series("one"),
                series("two"),
                series("three"),
                series("four"),
            ],
        };
        let svg = chart.section();
        assert_eq!(svg.matches("<polyline").count(), 4);
        assert!(
            ["one", "two", "three", "four", "&lt;t&gt;"]
                .iter()
                .all(|it| svg.contains(it))
        );
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn marks_are_few_and_on_the_axis() {
        let scale = Scale::over(Axis::Bytes, [1.0, 4e6].into_iter(), 0.0, 1.0);
        let marks = scale.marks();
        assert!(marks.len() <= MARKS_MAX + 1 && marks.len() > 3, "{marks:?}");
        let scale = Scale::over(Axis::Milliseconds, [0.0, 7.3].into_iter(), 0.0, 1.0);
        assert_eq!(scale.marks().last(), Some(&7.0));
        assert!(
            Scale::over(Axis::Decades, [5.0].into_iter(), 0.0, 1.0)
                .place(5.0)
                .is_finite()
        );
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(
            [bytes(8), bytes(4096), bytes(1 << 20), bytes(1025)],
            ["8", "4K", "1M", "1025"]
        );
    }
}

//! Pictures: lines over two axes, as SVG.

use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 48.0;
const COLOURS: [&str; 6] = ["#1f6fb4", "#d1495b", "#2a9d5c", "#8d5fb8", "#c98a1b", "#555555"];
/// Lines across the picture.
const STEPS: u8 = 5;

/// A picture.
pub(crate) struct Chart {
    /// The file's name, without `.svg`.
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) x_label: String,
    pub(crate) y_label: String,
    /// Each step of the vertical axis is ten times the last.
    pub(crate) is_logarithmic: bool,
    pub(crate) lines: Vec<Line>,
}

/// Points in the order they are joined.
pub(crate) struct Line {
    pub(crate) label: String,
    pub(crate) points: Vec<(f64, f64)>,
}

impl Chart {
    /// The picture as text.
    pub(crate) fn svg(&self) -> String {
        let axes = Axes::of(self);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n<text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{}</text>\n",
            escape(&self.title)
        );
        axes.draw(self, &mut svg);
        for (number, line) in self.lines.iter().enumerate() {
            draw_line(line, number, &axes, &mut svg);
        }
        svg.push_str("</svg>\n");
        svg
    }
}

/// From values to places.
struct Axes {
    x: (f64, f64),
    y: (f64, f64),
    is_logarithmic: bool,
}

impl Axes {
    fn of(chart: &Chart) -> Self {
        let points = || chart.lines.iter().flat_map(|line| line.points.iter());
        let most = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::MIN_POSITIVE, f64::max);
        let least = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::INFINITY, f64::min);
        let x = (least(&mut points().map(|point| point.0)), most(&mut points().map(|point| point.0)));
        let highest = most(&mut points().map(|point| point.1));
        let y = if chart.is_logarithmic {
            let lowest = least(&mut points().map(|point| point.1)).max(0.01);
            (lowest.log10().floor(), highest.log10().ceil())
        } else {
            (0.0, highest * 1.1)
        };
        Self { x, y, is_logarithmic: chart.is_logarithmic }
    }

    fn place(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let y = if self.is_logarithmic { y.max(0.01).log10() } else { y };
        let part = |value: f64, (from, to): (f64, f64)| (value - from) / (to - from).max(f64::MIN_POSITIVE);
        (
            LEFT + part(x, self.x) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - part(y, self.y) * (HEIGHT - TOP - BOTTOM),
        )
    }

    fn draw(&self, chart: &Chart, svg: &mut String) {
        // A logarithmic axis has a line for each power of ten.
        let powers =
            u8::try_from((0..u8::MAX).take_while(|power| self.y.0 + f64::from(*power) < self.y.1).count());
        let steps = if self.is_logarithmic { powers.unwrap_or(STEPS).max(1) } else { STEPS };
        for step in 0..=steps {
            let part = f64::from(step) / f64::from(steps);
            let exponent_or_value = self.y.0 + (self.y.1 - self.y.0) * part;
            let value = if self.is_logarithmic { 10_f64.powf(exponent_or_value) } else { exponent_or_value };
            let (_, y) = self.place((self.x.0, value));
            let _ = writeln!(
                svg,
                "<path d=\"M{LEFT} {y:.1}H{:.1}\" stroke=\"#dddddd\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                y + 4.0,
                tick(value)
            );
        }
        for step in 0..=STEPS {
            let part = f64::from(step) / f64::from(STEPS);
            let value = self.x.0 + (self.x.1 - self.x.0) * part;
            let (x, _) = self.place((value, 1.0));
            let _ = writeln!(
                svg,
                "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                HEIGHT - BOTTOM + 18.0,
                tick(value)
            );
        }
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text><text transform=\"translate(16 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            f64::midpoint(LEFT, WIDTH - RIGHT),
            HEIGHT - 10.0,
            escape(&chart.x_label),
            f64::midpoint(TOP, HEIGHT - BOTTOM),
            escape(&chart.y_label)
        );
    }
}

fn draw_line(line: &Line, number: usize, axes: &Axes, svg: &mut String) {
    let colour = COLOURS[number % COLOURS.len()];
    let places = line.points.iter().map(|point| axes.place(*point));
    let places: Vec<String> = places.map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
        places.join(" ")
    );
    let mut y = TOP + 8.0;
    for _ in 0..number {
        y += 18.0;
    }
    let x = WIDTH - RIGHT + 14.0;
    let _ = writeln!(
        svg,
        "<path d=\"M{x:.1} {y:.1}h18\" stroke=\"{colour}\" stroke-width=\"3\"/><text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
        x + 24.0,
        y + 4.0,
        escape(&line.label)
    );
}

/// A number beside an axis.
fn tick(value: f64) -> String {
    if value == 0.0 || value >= 10.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_lie_within_the_picture() {
        let line = Line { label: "a < b".to_owned(), points: vec![(0.0, 1.0), (10.0, 1000.0)] };
        let chart = Chart {
            name: "x".to_owned(),
            title: "T".to_owned(),
            x_label: "s".to_owned(),
            y_label: "ms".to_owned(),
            is_logarithmic: true,
            lines: vec![line],
        };
        let svg = chart.svg();
        assert!(svg.contains("64.0,312.0 570.0,40.0") && svg.contains("a &lt; b"), "{svg}");
    }
}

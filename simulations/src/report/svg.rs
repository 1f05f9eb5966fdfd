//! Plots as SVG.
//!
//! Decides: how numbers become lines and columns. Never: what is plotted. Colours are the page's
//! own, by class, so that a plot is as dark or light as the page around it.

/// The plot's place on the page, in units of its own; the page scales it.
const WIDTH: f64 = 880.0;
const HEIGHT: f64 = 260.0;
/// Room for the labels of the axes.
const LEFT: f64 = 66.0;
const RIGHT: f64 = 18.0;
const TOP: f64 = 22.0;
const BOTTOM: f64 = 44.0;
/// Marks on an axis, about.
const TICKS: f64 = 6.0;

/// A plot that is being drawn.
pub(crate) struct Plot {
    body: String,
    x: (f64, f64),
    y_max: f64,
}

impl Plot {
    /// An empty plot of `x.0..x.1` by `0..y_max`.
    pub(crate) fn new(x: (f64, f64), y_max: f64) -> Self {
        let (low, high) = x;
        let high = if high > low { high } else { low + 1.0 };
        Self {
            body: String::new(),
            x: (low, high),
            y_max: whole_steps(y_max.max(1e-9)),
        }
    }

    fn at_x(&self, x: f64) -> f64 {
        LEFT + (x - self.x.0) / (self.x.1 - self.x.0) * (WIDTH - LEFT - RIGHT)
    }

    fn at_y(&self, y: f64) -> f64 {
        HEIGHT - BOTTOM - y / self.y_max * (HEIGHT - TOP - BOTTOM)
    }

    /// A time in which something else held, with its name above.
    pub(crate) fn band(&mut self, from: f64, to: f64, row: usize, label: &str) {
        let (left, right) = (self.at_x(from), self.at_x(to.min(self.x.1)));
        let width = (right - left).max(2.0);
        let (top, height) = (TOP, HEIGHT - TOP - BOTTOM);
        let text_at = TOP + 12.0 + 13.0 * (row % 4) as f64;
        let label = escaped(label);
        self.body += &format!(
            "<rect class='band' x='{left:.1}' y='{top}' width='{width:.1}' height='{height}'/>\
             <text class='bandlabel' x='{:.1}' y='{text_at}'>{label}</text>",
            left + 4.0
        );
    }

    /// A column from `from` to `to`.
    pub(crate) fn column(&mut self, from: f64, to: f64, y: f64, title: &str) {
        let (left, right) = (self.at_x(from), self.at_x(to));
        let top = self.at_y(y);
        let (width, height) = ((right - left - 1.0).max(0.8), HEIGHT - BOTTOM - top);
        self.body += &format!(
            "<rect class='column' x='{left:.1}' y='{top:.1}' width='{width:.1}' \
             height='{height:.1}'><title>{}</title></rect>",
            escaped(title)
        );
    }

    /// A line through the points.
    pub(crate) fn line(&mut self, class: &str, points: &[(f64, f64)]) {
        let path = self.path(points);
        self.body += &format!("<path class='line {class}' d='{path}'/>");
    }

    /// All below the points.
    pub(crate) fn area(&mut self, class: &str, points: &[(f64, f64)]) {
        let (Some(first), Some(last)) = (points.first(), points.last()) else {
            return;
        };
        let mut path = self.path(points);
        let base = HEIGHT - BOTTOM;
        let (left, right) = (self.at_x(first.0), self.at_x(last.0));
        path += &format!(" L{right:.1} {base:.1} L{left:.1} {base:.1} Z");
        self.body += &format!("<path class='area {class}' d='{path}'/>");
    }

    fn path(&self, points: &[(f64, f64)]) -> String {
        let mut path = String::new();
        for (place, (x, y)) in points.iter().enumerate() {
            let letter = if place == 0 { 'M' } else { 'L' };
            let (x, y) = (self.at_x(*x), self.at_y(*y));
            path += &format!("{letter}{x:.1} {y:.1} ");
        }
        path
    }

    /// An upright line with a name at its head.
    pub(crate) fn mark(&mut self, x: f64, row: usize, label: &str) {
        let at = self.at_x(x);
        let (top, base) = (TOP, HEIGHT - BOTTOM);
        let text_at = TOP + 10.0 + 14.0 * row as f64;
        // Near the right edge the name stands before its line.
        let (anchor, text_x) = if at > WIDTH - 150.0 {
            ("end", at - 5.0)
        } else {
            ("start", at + 5.0)
        };
        self.body += &format!(
            "<line class='mark' x1='{at:.1}' x2='{at:.1}' y1='{top}' y2='{base}'/>\
             <text class='marklabel' text-anchor='{anchor}' x='{text_x:.1}' y='{text_at}'>{}</text>",
            escaped(label)
        );
    }

    /// The finished plot, with the axes' names.
    pub(crate) fn finish(self, name: &str, x_name: &str, y_name: &str) -> String {
        let mut axes = String::new();
        let base = HEIGHT - BOTTOM;
        for tick in ticks(0.0, self.y_max) {
            let y = self.at_y(tick);
            axes += &format!(
                "<line class='grid' x1='{LEFT}' x2='{:.1}' y1='{y:.1}' y2='{y:.1}'/>\
                 <text class='tick' text-anchor='end' x='{:.1}' y='{:.1}'>{}</text>",
                WIDTH - RIGHT,
                LEFT - 8.0,
                y + 4.0,
                short(tick)
            );
        }
        for tick in ticks(self.x.0, self.x.1) {
            let x = self.at_x(tick);
            axes += &format!(
                "<line class='axis' x1='{x:.1}' x2='{x:.1}' y1='{base}' y2='{:.1}'/>\
                 <text class='tick' text-anchor='middle' x='{x:.1}' y='{:.1}'>{}</text>",
                base + 4.0,
                base + 18.0,
                short(tick)
            );
        }
        let (middle, bottom) = ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 6.0);
        let right = WIDTH - RIGHT;
        format!(
            "<svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img' aria-label='{}'>{axes}{}\
             <line class='axis' x1='{LEFT}' x2='{right}' y1='{base}' y2='{base}'/>\
             <text class='name' text-anchor='middle' x='{middle}' y='{bottom}'>{}</text>\
             <text class='name' x='{LEFT}' y='12'>{}</text></svg>",
            escaped(name),
            self.body,
            escaped(x_name),
            escaped(y_name)
        )
    }
}

/// Round numbers from `low` to `high`.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let step = nice_above((high - low) / TICKS);
    let first = (low / step).ceil();
    let count = ((high - first * step) / step + 1e-9).floor();
    let mut all = Vec::new();
    let mut turn = 0.0;
    while turn <= count {
        all.push((first + turn) * step);
        turn += 1.0;
    }
    all
}

/// The next multiple of the step that the marks of an axis up to `value` have.
fn whole_steps(value: f64) -> f64 {
    let step = nice_above(value / TICKS);
    (value / step - 1e-9).ceil() * step
}

/// The next number that begins with 1, 2 or 5 and goes on with zeroes.
fn nice_above(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .find(|factor| factor * power >= value * (1.0 - 1e-9));
    factor.unwrap_or(10.0) * power
}

/// A number for a label: 1500 is 1.5k.
fn short(value: f64) -> String {
    let (value, unit) = match value.abs() {
        v if v >= 1e6 => (value / 1e6, "M"),
        v if v >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let text = format!("{value:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text}{unit}")
}

/// Text that is no markup.
pub(crate) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            _ => safe.push(character),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_numbers() {
        assert_eq!(ticks(0.0, 50.0), [0.0, 10.0, 20.0, 30.0, 40.0, 50.0]);
        assert_eq!(nice_above(4021.0), 5000.0);
        assert_eq!(whole_steps(72.0), 80.0);
        assert_eq!(short(12_000.0), "12k");
        assert_eq!(short(0.5), "0.5");
    }

    #[test]
    fn a_name_from_a_file_is_no_markup() {
        assert_eq!(escaped("<b a='x'>&"), "&lt;b a=&#39;x&#39;&gt;&amp;");
    }
}

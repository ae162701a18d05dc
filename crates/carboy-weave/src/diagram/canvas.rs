//! Shapes, and the SVG they become. *Must never* write a character of a label unescaped.

use std::fmt::Write as _;

use crate::page::escape;

/// Colours of one theme.
pub(super) struct Theme {
    box_fill: &'static str,
    box_line: &'static str,
    group_fill: &'static str,
    text: &'static str,
    line: &'static str,
    behind: &'static str,
}

pub(super) const LIGHT: Theme = Theme {
    box_fill: "#fffdf8",
    box_line: "#7a6a52",
    group_fill: "#ece7db",
    text: "#221f1a",
    line: "#5c5140",
    behind: "#f5f3ee",
};
pub(super) const DARK: Theme = Theme {
    box_fill: "#2a2620",
    box_line: "#a8977a",
    group_fill: "#211e19",
    text: "#ece7db",
    line: "#bfae90",
    behind: "#181613",
};

/// Height of a line of text.
pub(super) const LINE_HEIGHT: f64 = 18.0;
/// Size of the letters.
const FONT_PX: f64 = 14.0;
/// Space around everything.
const MARGIN: f64 = 12.0;

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stroke {
    Plain,
    Dotted,
    Thick,
}

/// What is at the end of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tip {
    None,
    Arrow,
    Open,
    Cross,
}

/// How a line gets from point to point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Straight,
    /// In curves that leave and arrive upwards or downwards.
    Vertical,
    /// In curves that leave and arrive sideways.
    Horizontal,
}

/// What a box looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Box,
    Round,
    Pill,
    Diamond,
    Store,
    Group,
    /// A line around arrows, whose labels keep the page's ground behind them.
    Frame,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rect {
    pub x: f64,
    pub y: f64,
    pub width: f64,
    pub height: f64,
}

impl Rect {
    pub fn center(&self) -> (f64, f64) {
        (self.x + self.width / 2.0, self.y + self.height / 2.0)
    }
}

enum Item {
    Shape(Shape, Rect),
    Path { points: Vec<(f64, f64)>, stroke: Stroke, tip: Tip, route: Route },
    Text { x: f64, y: f64, lines: Vec<String>, anchor: &'static str, bold: bool, behind: bool },
}

/// Shapes in the order in which they are drawn.
#[derive(Default)]
pub(super) struct Canvas {
    items: Vec<Item>,
    right: f64,
    bottom: f64,
}

/// About how wide a text is; letters differ, so it is rather too much.
pub(super) fn text_width(lines: &[String]) -> f64 {
    let width = |line: &String| line.chars().map(|c| if c.is_ascii() { 7.6 } else { 12.0 }).sum::<f64>();
    lines.iter().map(width).fold(0.0, f64::max)
}

impl Canvas {
    pub fn shape(&mut self, shape: Shape, rect: Rect) {
        self.reach(rect.x + rect.width, rect.y + rect.height);
        self.items.push(Item::Shape(shape, rect));
    }

    pub fn path(&mut self, points: Vec<(f64, f64)>, stroke: Stroke, tip: Tip, route: Route) {
        points.iter().for_each(|(x, y)| self.reach(*x, *y));
        self.items.push(Item::Path { points, stroke, tip, route });
    }

    /// Text around a point.
    pub fn text(&mut self, (x, y): (f64, f64), lines: &[String], bold: bool) {
        self.reach(x + text_width(lines) / 2.0, y + LINE_HEIGHT);
        self.items.push(Item::Text { x, y, lines: lines.to_vec(), anchor: "middle", bold, behind: false });
    }

    /// Text on a line: what is behind it is covered.
    pub fn label(&mut self, (x, y): (f64, f64), lines: &[String]) {
        self.reach(x + text_width(lines) / 2.0, y + LINE_HEIGHT);
        self.items.push(Item::Text { x, y, lines: lines.to_vec(), anchor: "middle", bold: false, behind: true });
    }

    /// Text that begins at a point.
    pub fn text_from(&mut self, (x, y): (f64, f64), lines: &[String], bold: bool) {
        self.reach(x + text_width(lines), y + LINE_HEIGHT);
        self.items.push(Item::Text { x, y, lines: lines.to_vec(), anchor: "start", bold, behind: false });
    }

    /// Another canvas on top of this one.
    pub fn append(&mut self, other: Canvas) {
        self.reach(other.right, other.bottom);
        self.items.extend(other.items);
    }

    fn reach(&mut self, x: f64, y: f64) {
        self.right = self.right.max(x);
        self.bottom = self.bottom.max(y);
    }

    pub fn size(&self) -> (u32, u32) {
        // Bounded by the limits of diagrams, and never negative.
        let whole = |length: f64| (length + 2.0 * MARGIN).ceil().clamp(1.0, 1e6) as u32;
        (whole(self.right), whole(self.bottom))
    }

    pub fn svg(&self, theme: &Theme, title: &str, description: &str) -> String {
        let (width, height) = self.size();
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
             role=\"img\" aria-labelledby=\"t d\" font-family=\"system-ui, -apple-system, 'Segoe UI', sans-serif\" \
             font-size=\"{FONT_PX}\">\n<title id=\"t\">{}</title>\n<desc id=\"d\">{}</desc>\n",
            escape(title),
            escape(description)
        );
        let _ = writeln!(out, "<g transform=\"translate({MARGIN} {MARGIN})\">");
        for item in &self.items {
            match item {
                Item::Shape(shape, rect) => draw_shape(&mut out, *shape, rect, theme),
                Item::Path { points, stroke, tip, route } => {
                    draw_path(&mut out, points, *stroke, *route, theme);
                    draw_tip(&mut out, points, *tip, *route, theme);
                }
                Item::Text { x, y, lines, anchor, bold, behind } => {
                    if *behind {
                        let (w, h) = (text_width(lines) + 6.0, lines.len() as f64 * LINE_HEIGHT);
                        let _ = writeln!(
                            out,
                            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{w:.1}\" height=\"{h:.1}\" fill=\"{}\" fill-opacity=\"0.9\"/>",
                            x - w / 2.0,
                            y - h / 2.0,
                            theme.behind
                        );
                    }
                    draw_text(&mut out, (*x, *y), lines, anchor, *bold, theme);
                }
            }
        }
        out.push_str("</g>\n</svg>\n");
        out
    }
}

fn draw_text(out: &mut String, (x, y): (f64, f64), lines: &[String], anchor: &str, bold: bool, theme: &Theme) {
    let first = y - (lines.len() as f64 - 1.0) * LINE_HEIGHT / 2.0 + FONT_PX * 0.35;
    let weight = if bold { " font-weight=\"600\"" } else { "" };
    for (n, line) in lines.iter().enumerate() {
        let _ = writeln!(
            out,
            "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\" fill=\"{}\"{weight}>{}</text>",
            first + n as f64 * LINE_HEIGHT,
            theme.text,
            escape(line)
        );
    }
}

fn draw_shape(out: &mut String, shape: Shape, rect: &Rect, theme: &Theme) {
    let Rect { x, y, width, height } = *rect;
    let paint = format!("fill=\"{}\" stroke=\"{}\" stroke-width=\"1.5\"", theme.box_fill, theme.box_line);
    let round = |radius: f64, paint: &str| {
        format!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"{radius:.1}\" {paint}/>\n"
        )
    };
    *out += &match shape {
        Shape::Box => round(3.0, &paint),
        Shape::Round => round(10.0, &paint),
        Shape::Pill => round(height / 2.0, &paint),
        Shape::Group => {
            round(6.0, &format!("fill=\"{}\" stroke=\"{}\" stroke-width=\"1\"", theme.group_fill, theme.box_line))
        }
        Shape::Frame => round(6.0, &format!("fill=\"none\" stroke=\"{}\" stroke-width=\"1\"", theme.box_line)),
        Shape::Diamond => {
            let (cx, cy) = rect.center();
            format!(
                "<polygon points=\"{cx:.1},{y:.1} {:.1},{cy:.1} {cx:.1},{:.1} {x:.1},{cy:.1}\" {paint}/>\n",
                x + width,
                y + height
            )
        }
        Shape::Store => {
            let (rx, ry, bottom) = (width / 2.0, 7.0, y + height - 7.0);
            format!(
                "<path d=\"M{x:.1} {:.1}A{rx:.1} {ry} 0 0 1 {:.1} {:.1}V{bottom:.1}A{rx:.1} {ry} 0 0 1 {x:.1} {bottom:.1}Z\" {paint}/>\n\
                 <path d=\"M{x:.1} {:.1}A{rx:.1} {ry} 0 0 0 {:.1} {:.1}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.5\"/>\n",
                y + ry,
                x + width,
                y + ry,
                y + ry,
                x + width,
                y + ry,
                theme.box_line
            )
        }
    };
}

fn draw_path(out: &mut String, points: &[(f64, f64)], stroke: Stroke, route: Route, theme: &Theme) {
    let Some((x, y)) = points.first() else { return };
    let mut d = format!("M{x:.1} {y:.1}");
    for pair in points.windows(2) {
        let ((ax, ay), (bx, by)) = (pair[0], pair[1]);
        let (mx, my) = ((ax + bx) / 2.0, (ay + by) / 2.0);
        let _ = match route {
            Route::Straight => write!(d, "L{bx:.1} {by:.1}"),
            Route::Vertical => write!(d, "C{ax:.1} {my:.1} {bx:.1} {my:.1} {bx:.1} {by:.1}"),
            Route::Horizontal => write!(d, "C{mx:.1} {ay:.1} {mx:.1} {by:.1} {bx:.1} {by:.1}"),
        };
    }
    let (width, dash) = match stroke {
        Stroke::Plain => ("1.5", ""),
        Stroke::Dotted => ("1.5", " stroke-dasharray=\"5 4\""),
        Stroke::Thick => ("3", ""),
    };
    let _ = writeln!(out, "<path d=\"{d}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{width}\"{dash}/>", theme.line);
}

/// The sign at the end of a line, turned into its direction.
fn draw_tip(out: &mut String, points: &[(f64, f64)], tip: Tip, route: Route, theme: &Theme) {
    let [.., (ax, ay), (x, y)] = points else { return };
    let (dx, dy) = (x - ax, y - ay);
    let length = dx.hypot(dy).max(0.001);
    let (dx, dy) = match route {
        Route::Straight => (dx / length, dy / length),
        Route::Vertical => (0.0, dy.signum()),
        Route::Horizontal => (dx.signum(), 0.0),
    };
    let (px, py) = (-dy, dx);
    let back =
        |along: f64, across: f64| format!("{:.1} {:.1}", x - along * dx + across * px, y - along * dy + across * py);
    let line = format!("fill=\"none\" stroke=\"{}\" stroke-width=\"1.5\"", theme.line);
    let _ = match tip {
        Tip::None => Ok(()),
        Tip::Arrow => writeln!(
            out,
            "<path d=\"M{x:.1} {y:.1}L{}L{}Z\" fill=\"{}\"/>",
            back(9.0, 4.5),
            back(9.0, -4.5),
            theme.line
        ),
        Tip::Open => writeln!(out, "<path d=\"M{}L{x:.1} {y:.1}L{}\" {line}/>", back(9.0, 4.5), back(9.0, -4.5)),
        Tip::Cross => writeln!(
            out,
            "<path d=\"M{}L{}M{}L{}\" {line}/>",
            back(10.0, 5.0),
            back(2.0, -5.0),
            back(10.0, -5.0),
            back(2.0, 5.0)
        ),
    };
}

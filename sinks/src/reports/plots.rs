//! Plots of a report as SVG: nothing is loaded, nothing moves.

use plotters::{
    coord::ranged1d::SegmentValue,
    prelude::{
        ChartBuilder, Color as _, IntoDrawingArea as _, IntoFont as _, IntoSegmentedCoord as _, PathElement,
        RGBColor, Rectangle, SVGBackend,
    },
    style::TextStyle,
};

use super::{
    body::{Cell, Step},
    period::Kind,
};
use crate::SinkError;

const WIDTH: u32 = 760;
const HEIGHT: u32 = 210;
const INK: RGBColor = RGBColor(74, 85, 104);
const GRID: RGBColor = RGBColor(226, 232, 240);
const ACTIVE: RGBColor = RGBColor(49, 130, 189);
const BUSY: RGBColor = RGBColor(253, 174, 107);
const HIGHEST: RGBColor = RGBColor(203, 71, 47);

/// A series of bars over the steps of a report.
pub(super) struct Bars<'a> {
    /// How long the period is.
    pub(super) kind: Kind,
    /// Its steps.
    pub(super) steps: &'a [Step],
    /// Height of a bar; `None`: nobody measured.
    pub(super) bar: fn(&Step) -> Option<f64>,
    /// A mark above or on the bar.
    pub(super) mark: fn(&Step) -> Option<f64>,
    /// The axis reaches at least so far.
    pub(super) least: f64,
    /// What stands behind the numbers of the axis.
    pub(super) unit: &'static str,
    /// Whether these are bars of activity, or of load.
    pub(super) is_activity: bool,
}

fn failed(error: impl std::fmt::Display) -> SinkError {
    SinkError::Fatal(format!("a plot cannot be drawn: {error}"))
}

fn letters() -> TextStyle<'static> {
    ("sans-serif", 12).into_font().color(&INK)
}

/// What stands below a step.
fn name(kind: Kind, step: &Step) -> String {
    match kind {
        Kind::Day => step.at.get(11..13).unwrap_or_default().to_owned(),
        Kind::Week => step
            .at
            .get(..10)
            .and_then(|day| day.parse::<chrono::NaiveDate>().ok())
            .map_or_else(String::new, |day| day.format("%a %-d").to_string()),
    }
}

/// The number that a segment begins with, or is about.
fn number(value: &SegmentValue<i32>) -> Option<usize> {
    match value {
        SegmentValue::Exact(number) | SegmentValue::CenterOf(number) => usize::try_from(*number).ok(),
        SegmentValue::Last => None,
    }
}

/// Bars with marks, as an `<svg>` element.
pub(super) fn bars(of: &Bars) -> Result<String, SinkError> {
    let values = of.steps.iter().flat_map(|step| [(of.bar)(step), (of.mark)(step)]);
    let top = values.flatten().fold(of.least, f64::max) * 1.05;
    let last = of.steps.len().max(2) as i32 - 1;
    let names: Vec<String> = of.steps.iter().map(|step| name(of.kind, step)).collect();
    let color = if of.is_activity { ACTIVE } else { BUSY };
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
        let mut chart = ChartBuilder::on(&root)
            .margin(6)
            .x_label_area_size(24)
            .y_label_area_size(64)
            .build_cartesian_2d((0..last).into_segmented(), 0.0..top)
            .map_err(failed)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(plotters::style::colors::TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(GRID)
            .x_labels(of.steps.len())
            .y_labels(5)
            .label_style(letters())
            .x_label_formatter(&|value| {
                number(value).and_then(|at| names.get(at)).cloned().unwrap_or_default()
            })
            .y_label_formatter(&|value| format!("{value:.0} {}", of.unit))
            .draw()
            .map_err(failed)?;
        let bars = (0..).zip(of.steps).filter_map(|(at, step)| {
            let height = (of.bar)(step)?;
            let corners = [(SegmentValue::Exact(at), 0.0), (SegmentValue::Exact(at + 1), height)];
            let mut bar = Rectangle::new(corners, color.filled());
            bar.set_margin(0, 0, 2, 2);
            Some(bar)
        });
        chart.draw_series(bars).map_err(failed)?;
        let marks = (0..).zip(of.steps).filter_map(|(at, step)| {
            let height = (of.mark)(step)?;
            let ends = vec![(SegmentValue::Exact(at), height), (SegmentValue::Exact(at + 1), height)];
            Some(PathElement::new(ends, HIGHEST.stroke_width(2)))
        });
        chart.draw_series(marks).map_err(failed)?;
        root.present().map_err(failed)?;
    }
    Ok(svg)
}

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

/// Weekdays by hours, the darker the more, as an `<svg>` element. Hours of which nothing is known stay empty.
pub(super) fn pattern(
    cells: &[Cell],
    value: fn(&Cell) -> Option<f64>,
    is_activity: bool,
) -> Result<String, SinkError> {
    let highest = cells.iter().filter_map(value).fold(0.0, f64::max);
    let color = if is_activity { ACTIVE } else { HIGHEST };
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
        // Monday is on top
        let mut chart = ChartBuilder::on(&root)
            .margin(6)
            .x_label_area_size(24)
            .y_label_area_size(64)
            .build_cartesian_2d((0..23).into_segmented(), (0..6).into_segmented())
            .map_err(failed)?;
        chart
            .configure_mesh()
            .disable_mesh()
            .axis_style(GRID)
            .x_labels(24)
            .y_labels(7)
            .label_style(letters())
            .x_label_formatter(&|hour| number(hour).map_or_else(String::new, |hour| format!("{hour:02}")))
            .y_label_formatter(&|row| {
                let day = number(row).and_then(|row| DAYS.get(6_usize.checked_sub(row)?));
                day.map_or_else(String::new, ToString::to_string)
            })
            .draw()
            .map_err(failed)?;
        let rectangles = cells.iter().filter_map(|cell| {
            let value = value(cell)?;
            let (hour, row) = (cell.hour as i32, 7_i32 - cell.weekday as i32);
            let strength = if highest > 0.0 { value / highest } else { 0.0 };
            let corners = [
                (SegmentValue::Exact(hour), SegmentValue::Exact(row)),
                (SegmentValue::Exact(hour + 1), SegmentValue::Exact(row + 1)),
            ];
            let mut cell = Rectangle::new(corners, color.mix(0.07 + 0.93 * strength).filled());
            cell.set_margin(1, 1, 1, 1);
            Some(cell)
        });
        chart.draw_series(rectangles).map_err(failed)?;
        root.present().map_err(failed)?;
    }
    Ok(svg)
}

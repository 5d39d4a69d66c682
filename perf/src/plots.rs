//! Figures as pictures: SVG files that a browser, a Markdown page and a pull request show.

use std::path::Path;

use anyhow::Context as _;
use plotters::prelude::{
    ChartBuilder, Color as _, IntoDrawingArea as _, LineSeries, PathElement, RGBColor, SVGBackend, WHITE,
};

/// Pixels.
const SIZE: (u32, u32) = (800, 400);

/// Told apart by most eyes, also in print (the first of Okabe and Ito's palette).
const COLOURS: [RGBColor; 4] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
];

/// A line of a picture.
#[derive(Debug, Clone)]
pub struct Line {
    /// What the legend calls it.
    pub name: String,
    /// From left to right.
    pub points: Vec<(f64, f64)>,
}

/// What a picture shows: above it, below it, to its left.
#[derive(Debug, Clone, Copy)]
struct Axes<'a> {
    title: &'a str,
    x: &'a str,
    y: &'a str,
}

/// Draws lines over each other; the y axis begins at zero.
///
/// # Errors
/// If the file can't be written.
fn draw(file: &Path, axes: Axes<'_>, lines: &[Line], x_label: &dyn Fn(&f64) -> String) -> anyhow::Result<()> {
    let points = || lines.iter().flat_map(|line| &line.points);
    let right = points().map(|point| point.0).fold(0.0, f64::max);
    let top = points().map(|point| point.1).fold(0.0, f64::max);
    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    let drawn = (|| {
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(axes.title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(70)
            .build_cartesian_2d(0.0..right.max(f64::EPSILON), 0.0..(top * 1.1).max(f64::EPSILON))?;
        chart
            .configure_mesh()
            .x_desc(axes.x)
            .y_desc(axes.y)
            .x_label_formatter(x_label)
            .y_label_formatter(&|y| format!("{y:.0}"))
            .light_line_style(WHITE)
            .draw()?;
        for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
            let style = colour.stroke_width(2);
            chart
                .draw_series(LineSeries::new(line.points.iter().copied(), style))?
                .label(line.name.as_str())
                .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 20, y)], style));
        }
        if lines.len() > 1 {
            chart
                .configure_series_labels()
                .background_style(WHITE.mix(0.8))
                .border_style(RGBColor(200, 200, 200))
                .draw()?;
        }
        area.present()
    })();
    drawn.with_context(|| format!("{} can't be drawn", file.display()))
}

/// Draws latencies over their percentiles.
///
/// # Errors
/// If the file can't be written.
pub fn draw_latencies(file: &Path, title: &str, latencies: &[(String, &[u32])]) -> anyhow::Result<()> {
    let line = |(name, sorted): &(String, &[u32])| Line {
        name: name.clone(),
        points: percentiles(sorted),
    };
    let axes = Axes {
        title,
        x: "percentile",
        y: "ms",
    };
    let lines: Vec<Line> = latencies.iter().map(line).collect();
    draw(file, axes, &lines, &percentile_label)
}

/// Draws what changes from second to second.
///
/// # Errors
/// If the file can't be written.
pub fn draw_seconds(file: &Path, title: &str, y: &str, lines: &[Line]) -> anyhow::Result<()> {
    let axes = Axes {
        title,
        x: "seconds",
        y,
    };
    draw(file, axes, lines, &|second| format!("{second:.0}"))
}

/// Values of one second each.
pub fn by_second(values: impl IntoIterator<Item = f64>) -> Vec<(f64, f64)> {
    (0_u32..).map(f64::from).zip(values).collect()
}

/// Latencies over percentiles, with each nine as wide as the one before: 0 is the median's side, 1 is 90 %, 2 is 99 %, 3 is
/// 99.9 %. Of latencies in microseconds, sorted; in milliseconds.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "ranks of far fewer than 2^52 latencies, none below zero"
)]
fn percentiles(sorted: &[u32]) -> Vec<(f64, f64)> {
    const STEPS: u32 = 160;
    let most = sorted.len() as f64;
    let at = |step: u32| {
        let nines = f64::from(step) / f64::from(STEPS) * 4.0;
        let rank = (most * (1.0 - 10_f64.powf(-nines))).ceil().max(1.0);
        // Beyond this there is no latency that another does not stand for.
        (most * 10_f64.powf(-nines) >= 1.0)
            .then(|| sorted.get(rank as usize - 1))
            .flatten()
            .map(|micros| (nines, f64::from(*micros) / 1e3))
    };
    (0..=STEPS).filter_map(at).collect()
}

/// The label of a place on the axis of [`percentiles`].
fn percentile_label(nines: &f64) -> String {
    let percent = 100.0 - 100.0 * 10_f64.powf(-nines);
    format!("{percent:.3}")
        .trim_end_matches('0')
        .trim_end_matches('.')
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_nine_is_as_wide_as_the_one_before() {
        let sorted: Vec<u32> = (1..=10_000).map(|ms| ms * 1_000).collect();
        let points = percentiles(&sorted);
        let near = |nines: f64| {
            points
                .iter()
                .find(|point| (point.0 - nines).abs() < 1e-9)
                .unwrap()
                .1
        };
        assert_eq!((near(1.0), near(2.0), near(3.0)), (9_000.0, 9_900.0, 9_990.0));
        assert_eq!(percentile_label(&2.0), "99");
        assert_eq!(percentile_label(&3.0), "99.9");
        assert_eq!(percentiles(&[]), []);
        assert!(percentiles(&[5]).len() == 1);
    }

    #[test]
    fn a_picture_names_its_axes_and_lines() {
        let file = std::env::temp_dir().join(format!("relayforge-plot-{}.svg", std::process::id()));
        let line = |name: &str, y| Line {
            name: name.to_owned(),
            points: by_second([y, y + 1.0]),
        };
        let axes = Axes {
            title: "a title",
            x: "seconds",
            y: "jobs",
        };
        draw(&file, axes, &[line("one", 1.0), line("other", 5.0)], &|x| {
            format!("{x:.0}")
        })
        .unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        for seen in ["<svg", "a title", "seconds", "jobs", "one", "other"] {
            assert!(text.contains(seen), "{seen}");
        }
    }
}

//! One picture of several runs' losses.

use super::{Axis, Curve, Loss, PlotError};
use plotters::backend::{BitMapBackend, DrawingBackend, SVGBackend};
use plotters::chart::{ChartBuilder, DualCoordChartContext, SeriesLabelPosition};
use plotters::coord::Shift;
use plotters::coord::cartesian::Cartesian2d;
use plotters::coord::types::RangedCoordf64;
use plotters::drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea};
use plotters::element::{Circle, Cross, EmptyElement, PathElement};
use plotters::style::{
    Color, FontStyle, IntoFont, Palette, Palette99, RGBColor, ShapeStyle, TRANSPARENT, WHITE, register_font,
};
use std::fmt::Display;
use std::ops::Range;

/// Size in the units that all lengths here are in, pixels of an SVG.
const SIZE: (u32, u32) = (900, 560);
/// Pixels of a PNG for each unit, as displays of high density want them.
const DENSITY: u32 = 2;
/// Each pixel of a PNG is the mean of so many in each direction, which makes edges smooth.
const SAMPLES: u32 = 2;
/// Losses of the first part of a run, while it still falls steeply, don't set the height of the picture.
const STEEP: f64 = 0.05;
/// Ratios for which both scales have numbers that can be read.
const SCALES: Range<f64> = 0.01..100.0;
/// Room above and below the losses at least: what the numbers at the axis still tell apart.
const LEAST_ROOM: f64 = 0.002;
/// Ratios of bits/byte to nats/char that differ by less than this are one scale.
const SAME_SCALE: f64 = 1.005;

/// A subset of Roboto without hints and kerning: Latin, Greek and Cyrillic letters. By Google, Apache-2.0.
static FONT: &[u8] = include_bytes!("Roboto-Regular.ttf");
const INK: RGBColor = RGBColor(60, 60, 60);
const FRAME: RGBColor = RGBColor(150, 150, 150);
const GRID: RGBColor = RGBColor(225, 225, 225);
/// Told apart by the colour-blind as well (Okabe and Ito 2008).
const COLORS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(90, 90, 90),
];

/// What puts the middle of a number's digits at the height of its tick.
const LABEL_OFFSET: i32 = 2;

/// What a picture is stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Lines and text.
    Svg,
    /// Pixels.
    Png,
}

/// A unit of loss.
#[derive(Clone, Copy)]
struct Unit {
    name: &'static str,
    of: fn(&Loss) -> f64,
}

const NATS: Unit = Unit { name: "nats/char", of: |loss| loss.nats_per_char };
const BITS: Unit = Unit { name: "bits/byte", of: |loss| loss.bits_per_byte };

/// The file's bytes of a picture of `curves`, which were read for `axis`.
///
/// # Errors
/// If there is no loss to draw, or one that is not a number, negative or above any that training can have.
pub fn draw(curves: &[Curve], axis: Axis, format: Format) -> Result<Vec<u8>, PlotError> {
    let mut losses = curves.iter().flat_map(Curve::losses).peekable();
    if losses.peek().is_none() {
        return Err(error("there is no loss"));
    }
    // The drawing library never ends over such numbers.
    if let Some(loss) = losses.find(|loss| !loss.is_sound()) {
        return Err(error(format!("{loss:?} is out of range")));
    }
    register_font("sans-serif", FontStyle::Normal, FONT).map_err(|_| error("the font is damaged"))?;
    match format {
        Format::Svg => {
            let mut svg = String::new();
            picture(&SVGBackend::with_string(&mut svg, SIZE).into_drawing_area(), curves, axis, 1)?;
            Ok(svg.into_bytes())
        }
        Format::Png => {
            let scale = DENSITY * SAMPLES;
            let (width, height) = (SIZE.0 * scale, SIZE.1 * scale);
            let mut pixels = vec![0; (width * height * 3) as usize]; // [height, width, 3]
            let backend = BitMapBackend::with_buffer(&mut pixels, (width, height));
            picture(&backend.into_drawing_area(), curves, axis, scale)?;
            png(&smooth(&pixels, width as usize))
        }
    }
}

/// Means of squares of `SAMPLES` by `SAMPLES` pixels: `[height, width, 3]` to a picture smaller by that.
fn smooth(pixels: &[u8], width: usize) -> Vec<u8> {
    let samples = SAMPLES as usize;
    let mut smooth = Vec::with_capacity(pixels.len() / (samples * samples));
    for rows in pixels.chunks_exact(width * 3 * samples) {
        for column in (0..width * 3).step_by(3 * samples) {
            for channel in column..column + 3 {
                let square = rows
                    .chunks_exact(width * 3)
                    .flat_map(|row| (0..samples).map(move |i| row[channel + 3 * i]));
                let sum: usize = square.map(usize::from).sum();
                smooth.push((sum / (samples * samples)) as u8);
            }
        }
    }
    smooth
}

fn png(pixels: &[u8]) -> Result<Vec<u8>, PlotError> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, SIZE.0 * DENSITY, SIZE.1 * DENSITY);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().map_err(error)?;
    writer.write_image_data(pixels).map_err(error)?;
    writer.finish().map_err(error)?;
    Ok(file)
}

fn error(what: impl Display) -> PlotError {
    PlotError::Drawing(what.to_string())
}

/// Draws one panel with both units, where one scale serves for all runs, else one for each unit.
fn picture<DB: DrawingBackend>(
    area: &DrawingArea<DB, Shift>,
    curves: &[Curve],
    axis: Axis,
    scale: u32,
) -> Result<(), PlotError> {
    area.fill(&WHITE).map_err(error)?;
    let ratio = |loss: &Loss| loss.bits_per_byte / loss.nats_per_char;
    // A loss of 0 is one in any unit.
    let ratios = || curves.iter().flat_map(Curve::losses).map(ratio).filter(|ratio| !ratio.is_nan());
    let (least, most) = (ratios().fold(f64::INFINITY, f64::min), ratios().fold(0.0, f64::max));
    if SCALES.contains(&least) && most < least * SAME_SCALE {
        panel(area, curves, axis, (NATS, Some((BITS, (least * most).sqrt()))), scale)?;
    } else {
        let (upper, lower) = area.split_vertically(SIZE.1 * scale / 2);
        panel(&upper, curves, axis, (NATS, None), scale)?;
        panel(&lower, curves, axis, (BITS, None), scale)?;
    }
    area.present().map_err(error)
}

type Chart<'a, DB> = DualCoordChartContext<
    'a,
    DB,
    Cartesian2d<RangedCoordf64, RangedCoordf64>,
    Cartesian2d<RangedCoordf64, RangedCoordf64>,
>;

/// Draws the curves in one unit, and that of a second as another scale on the right: the first times a ratio.
fn panel<DB: DrawingBackend>(
    area: &DrawingArea<DB, Shift>,
    curves: &[Curve],
    axis: Axis,
    (unit, second): (Unit, Option<(Unit, f64)>),
    scale: u32,
) -> Result<(), PlotError> {
    let px = |units: u32| units * scale;
    let (x, y) = (x_range(curves), y_range(curves, unit));
    let (ratio, right) = second.map_or((1.0, 8), |(_, ratio)| (ratio, 58));
    let (x_name, x_unit) = x_axis(axis, x.end);
    let font = |size: u32| ("sans-serif", px(size)).into_font().color(&INK);
    let line = |color: RGBColor| ShapeStyle { color: color.to_rgba(), filled: false, stroke_width: px(1) };
    let mut chart = ChartBuilder::on(area)
        .margin(px(14))
        .caption("training (thin) and held-out text (dots)", font(16))
        .x_label_area_size(px(48))
        .y_label_area_size(px(58))
        .right_y_label_area_size(px(right))
        .build_cartesian_2d(x.clone(), y.clone())
        .map_err(error)?
        .set_secondary_coord(x.clone(), y.start * ratio..y.end * ratio);
    chart
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(line(GRID))
        .light_line_style(TRANSPARENT)
        .axis_style(line(FRAME))
        .label_style(font(14))
        .axis_desc_style(font(16))
        .x_desc(x_name)
        .y_desc(unit.name)
        .x_label_formatter(&|at| number(at / x_unit, (x.end - x.start) / x_unit))
        .y_label_formatter(&|at| number(*at, y.end - y.start))
        .y_label_offset(LABEL_OFFSET * scale as i32)
        .draw()
        .map_err(error)?;
    if let Some((second, _)) = second {
        chart
            .configure_secondary_axes()
            .axis_style(line(FRAME))
            .label_style(font(14))
            .axis_desc_style(font(16))
            .y_desc(second.name)
            .y_label_formatter(&|at| number(*at, (y.end - y.start) * ratio))
            .y_label_offset(LABEL_OFFSET * scale as i32)
            .draw()
            .map_err(error)?;
    }
    for (i, curve) in curves.iter().enumerate() {
        draw_curve(&mut chart, curve, color(i), unit, y.end, scale).map_err(error)?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .margin(px(10))
        .legend_area_size(px(34))
        .border_style(line(GRID))
        .background_style(WHITE.mix(0.85))
        .label_font(font(14))
        .draw()
        .map_err(error)
}

/// Draws a run's training loss as a thin line and its validations as dots on a thick one.
fn draw_curve<'a, DB: DrawingBackend + 'a>(
    chart: &mut Chart<'a, DB>,
    curve: &Curve,
    color: RGBColor,
    unit: Unit,
    top: f64,
    scale: u32,
) -> Result<(), DrawingAreaErrorKind<DB::ErrorType>> {
    let points = |piece: &[Loss]| piece.iter().map(|loss| (loss.x, (unit.of)(loss))).collect::<Vec<_>>();
    let (thin, thick) = (color.mix(0.5).stroke_width(scale), color.stroke_width(2 * scale));
    for piece in &curve.training {
        let lines = clipped(&points(piece), top);
        // A line of one point would not be seen.
        let alone = lines.iter().filter_map(|line| if let [point] = line[..] { Some(point) } else { None });
        chart.draw_series(alone.map(|at| Cross::new(at, 2 * scale, thin)))?;
        chart.draw_series(lines.into_iter().map(|line| PathElement::new(line, thin)))?;
    }
    for piece in &curve.validation {
        let points = points(piece);
        let lines = clipped(&points, top).into_iter();
        chart.draw_series(lines.map(|line| PathElement::new(line, thick)))?;
        let dots = points.into_iter().filter(|(_, y)| *y <= top);
        chart.draw_series(dots.map(|at| Circle::new(at, 3 * scale, color.filled())))?;
    }
    let best = curve.best().map(|best| format!(": best {best:.4} nats/char")).unwrap_or_default();
    let key = move |(x, y): (i32, i32)| {
        let end = x + 24 * scale as i32;
        EmptyElement::at((x, y))
            + PathElement::new([(0, 0), (end - x, 0)], thick)
            + Circle::new(((end - x) / 2, 0), 3 * scale, color.filled())
    };
    let nothing = std::iter::empty::<PathElement<(f64, f64)>>();
    chart.draw_series(nothing)?.label(format!("{}{best}", curve.name)).legend(key);
    Ok(())
}

fn color(index: usize) -> RGBColor {
    COLORS.get(index).copied().unwrap_or_else(|| {
        let (red, green, blue) = Palette99::pick(index).rgb();
        RGBColor(red, green, blue)
    })
}

/// From zero to the longest run's end.
fn x_range(curves: &[Curve]) -> Range<f64> {
    0.0..curves.iter().flat_map(Curve::losses).map(|loss| loss.x).fold(1.0, f64::max)
}

/// From the lowest loss to the highest after the steep beginnings, with some room.
fn y_range(curves: &[Curve], unit: Unit) -> Range<f64> {
    let lowest = curves.iter().flat_map(Curve::losses).map(unit.of).fold(f64::INFINITY, f64::min);
    let later = |curve: &Curve| {
        let end = curve.losses().map(|loss| loss.x).fold(0.0, f64::max);
        let later = curve.losses().filter(|loss| loss.x >= STEEP * end).map(unit.of);
        later.fold(f64::NEG_INFINITY, f64::max)
    };
    let highest = curves.iter().map(later).fold(f64::NEG_INFINITY, f64::max);
    let room = (0.06 * (highest - lowest)).max(0.02 * highest).max(LEAST_ROOM);
    (lowest - room).max(0.0)..highest + room
}

/// The parts of a line at most `top` high. Where it crosses that height it is cut.
fn clipped(points: &[(f64, f64)], top: f64) -> Vec<Vec<(f64, f64)>> {
    let mut lines: Vec<Vec<(f64, f64)>> = Vec::new();
    let mut before: Option<(f64, f64)> = None;
    for &(x, y) in points {
        let crossing = before.filter(|before| (before.1 > top) != (y > top)).map(|before| {
            let part = (top - before.1) / (y - before.1);
            (before.0 + part * (x - before.0), top)
        });
        if y <= top && before.is_none_or(|before| before.1 > top) {
            lines.push(Vec::new());
        }
        if let Some(line) = lines.last_mut() {
            line.extend(crossing);
            line.extend((y <= top).then_some((x, y)));
        }
        before = Some((x, y));
    }
    lines
}

/// The x axis's name, and what its numbers count.
fn x_axis(axis: Axis, end: f64) -> (String, f64) {
    let of = |what: &str| match end {
        _ if end >= 2e9 => (format!("{what} (billions)"), 1e9),
        _ if end >= 2e6 => (format!("{what} (millions)"), 1e6),
        _ if end >= 2e4 => (format!("{what} (thousands)"), 1e3),
        _ => (what.to_owned(), 1.0),
    };
    match axis {
        Axis::Tokens => of("training tokens"),
        Axis::Steps => of("steps"),
        Axis::Time if end >= 7200.0 => ("hours".to_owned(), 3600.0),
        Axis::Time if end >= 120.0 => ("minutes".to_owned(), 60.0),
        Axis::Time => ("seconds".to_owned(), 1.0),
    }
}

/// A number at an axis that covers `span`, with as many decimals as it takes to tell it from its neighbours, but without
/// zeros at its end.
fn number(value: f64, span: f64) -> String {
    let decimals = (20.0 / span).log10().ceil().clamp(1.0, 9.0) as usize;
    let rounded = format!("{value:.decimals$}");
    rounded.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_cannot_be_drawn_is_refused() {
        let curve =
            |training: Vec<Vec<Loss>>| Curve { name: "run".to_owned(), training, validation: Vec::new() };
        let loss = Loss { x: 1.0, nats_per_char: 2.0, bits_per_byte: 3.0 };
        let drawn = |curves: &[Curve]| draw(curves, Axis::Steps, Format::Svg);
        assert!(drawn(&[curve(vec![vec![loss]])]).is_ok());
        for nothing in [vec![], vec![curve(vec![])], vec![curve(vec![vec![]])]] {
            assert!(drawn(&nothing).is_err());
        }
        for number in [f64::NAN, f64::INFINITY, -1.0, 1e300] {
            for odd in [
                Loss { x: number, ..loss },
                Loss { nats_per_char: number, ..loss },
                Loss { bits_per_byte: number, ..loss },
            ] {
                assert!(drawn(&[curve(vec![vec![loss, odd]])]).is_err(), "{odd:?}");
            }
        }
    }

    #[test]
    fn a_line_is_cut_where_it_crosses_the_top() {
        let lines = clipped(&[(0.0, 4.0), (1.0, 2.0), (2.0, 1.0), (3.0, 5.0), (4.0, 3.0)], 3.0);
        assert_eq!(
            lines,
            [vec![(0.5, 3.0), (1.0, 2.0), (2.0, 1.0), (2.5, 3.0)], vec![(4.0, 3.0), (4.0, 3.0)]]
        );
    }

    proptest! {
        #[test]
        fn what_is_left_of_a_line_lies_below_the_top_and_on_it(
            heights in proptest::collection::vec(0.0..10.0_f64, 0..30),
            top in 0.0..10.0_f64,
        ) {
            let points: Vec<_> = heights.iter().enumerate().map(|(x, &y)| (x as f64, y)).collect();
            let lines = clipped(&points, top);
            for &(x, y) in lines.iter().flatten() {
                let (left, right) = (x.floor() as usize, x.ceil() as usize);
                let on_line = heights[left] + (x - x.floor()) * (heights[right] - heights[left]);
                prop_assert!(y <= top && (y - on_line).abs() < 1e-6);
            }
            for point in points.iter().filter(|point| point.1 <= top) {
                prop_assert!(lines.iter().any(|line| line.contains(point)));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]
        /// The drawing library tries forever to label some ranges.
        #[test]
        fn any_losses_that_can_be_read_are_drawn(
            losses in proptest::collection::vec((any_size(), any_size(), any_size()), 1..6), split in 0..6_usize,
        ) {
            let losses = losses.into_iter();
            let losses: Vec<Loss> =
                losses.map(|(x, nats_per_char, bits_per_byte)| Loss { x, nats_per_char, bits_per_byte }).collect();
            let (training, validation) = losses.split_at(split.min(losses.len()));
            let pieces = |losses: &[Loss]| if losses.is_empty() { Vec::new() } else { vec![losses.to_vec()] };
            let curve =
                Curve { name: "run".to_owned(), training: pieces(training), validation: pieces(validation) };
            for axis in [Axis::Tokens, Axis::Time] {
                prop_assert!(draw(std::slice::from_ref(&curve), axis, Format::Svg).is_ok());
            }
        }
    }

    /// Zero, or of any size up to the largest that is read.
    fn any_size() -> impl Strategy<Value = f64> {
        prop_oneof![Just(0.0), 0.0..10.0_f64, (-300.0..38.5_f64).prop_map(|exponent| 10_f64.powf(exponent))]
    }

    #[test]
    fn numbers_are_short() {
        let at = |span: f64| [0.0, 1.5, 20.0, 1.4697, 0.0005].map(|value| number(value, span));
        assert_eq!(at(30.0), ["0", "1.5", "20", "1.5", "0"]);
        assert_eq!(at(1.0), ["0", "1.5", "20", "1.47", "0"]);
        assert_eq!(at(0.005), ["0", "1.5", "20", "1.4697", "0.0005"]);
    }

    #[test]
    fn small_losses_have_numbers_of_their_own_and_none_below_zero() {
        let loss = |x: f64, nats: f64| Loss { x, nats_per_char: nats, bits_per_byte: 0.02 * nats };
        for size in [1e-4, 0.01, 0.3] {
            let training = vec![vec![loss(0.0, size), loss(9.0, 0.5 * size)]];
            let curve = Curve { name: "run".to_owned(), training, validation: Vec::new() };
            let svg = String::from_utf8(draw(&[curve], Axis::Steps, Format::Svg).unwrap()).unwrap();
            let texts = svg.split("<text").skip(1).filter_map(|text| text.split('\n').nth(1));
            let numbers: Vec<f64> = texts.filter_map(|text| text.parse().ok()).collect();
            let (x, y): (Vec<f64>, Vec<f64>) = numbers.iter().partition(|&&number| number >= 1.0);
            assert!(
                x.len() > 2 && y.len() > 5 && y.iter().all(|&number| number >= 0.0),
                "{size}: {numbers:?}"
            );
            let repeated = |pair: &[f64]| pair[0] == pair[1] && pair[0] > 0.0;
            assert!(!y.windows(2).any(repeated), "{size}: {y:?}");
        }
    }

    #[test]
    fn a_single_training_loss_is_seen() {
        let loss = Loss { x: 1.0, nats_per_char: 2.0, bits_per_byte: 3.0 };
        let drawn = |training: Vec<Vec<Loss>>| {
            let curve = Curve { name: "run".to_owned(), training, validation: Vec::new() };
            String::from_utf8(draw(&[curve], Axis::Steps, Format::Svg).unwrap()).unwrap()
        };
        let strokes = |svg: &str| svg.matches("<line").count() + svg.matches("<polyline").count();
        let two = drawn(vec![vec![Loss { x: 0.5, ..loss }, loss]]);
        assert_eq!(strokes(&drawn(vec![vec![loss]])), strokes(&two) + 2);
    }
}

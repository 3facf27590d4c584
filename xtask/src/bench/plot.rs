// SPDX-License-Identifier: LGPL-2.1-or-later
//! The result as a drawing: each way to store against dm-linear, and a fill over time.

use std::fmt::Write as _;

use super::results::Results;

const WIDTH: f64 = 960.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 20.0;
const HEIGHT: f64 = 260.0;
const TOP: f64 = 60.0;
/// The ways that are drawn, and their colours, told apart without red and green.
const WAYS: [(&str, &str, &str); 6] = [
    ("linear", "dm-linear", "#999999"),
    ("notify", "notify, clean headroom", "#0072b2"),
    ("notify_installed", "notify, as installed", "#56b4e9"),
    ("thin4m", "dm-thin 4 MiB", "#e69f00"),
    ("thin64k", "dm-thin 64 KiB", "#f0c060"),
    ("qcow2", "qcow2, nbd", "#cc79a7"),
];
/// The jobs that are drawn.
const JOBS: [(&str, &str); 7] = [
    ("seqfirst", "sequential,first write"),
    ("touch", "one first write,to each chunk"),
    ("randfirst", "random,64 writes a chunk"),
    ("seqagain", "sequential,second write"),
    ("seqread", "sequential,read"),
    ("randwrite", "random,write"),
    ("randread", "random,read"),
];

/// The drawing; panels without figures are left out.
pub fn svg(results: &Results) -> String {
    let panels: Vec<String> = [bars(results), fill(results)].into_iter().flatten().collect();
    let height = (TOP + HEIGHT + 50.0) * panels.len().max(1) as f64;
    let mut out = format!(
        "<!-- SPDX-License-Identifier: LGPL-2.1-or-later -->\n\
         <svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (number, panel) in panels.iter().enumerate() {
        let at = (TOP + HEIGHT + 50.0) * number as f64;
        let _ = write!(out, "<g transform=\"translate(0 {at})\">\n{panel}</g>\n");
    }
    out + "</svg>\n"
}

/// A panel's vertical scale, from 0 to `most`.
struct Scale {
    most: f64,
}

impl Scale {
    fn y(&self, value: f64) -> f64 {
        TOP + HEIGHT * (1.0 - (value / self.most).min(1.0))
    }

    /// Lines across, with their values.
    fn grid(&self, step: f64) -> String {
        let mut out = String::new();
        let mut value = 0.0;
        while value <= self.most * 1.0001 {
            let y = self.y(value);
            let _ = writeln!(
                out,
                "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{}\" y2=\"{y:.1}\" stroke=\"#dddddd\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                y + 4.0
            );
            value += step;
        }
        out
    }
}

fn title(text: &str) -> String {
    format!("<text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{text}</text>\n")
}

fn legend(names: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (number, (colour, name)) in names.iter().enumerate() {
        let x = LEFT + 150.0 * number as f64;
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"34\" width=\"12\" height=\"12\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"44\">{name}</text>",
            x + 17.0
        );
    }
    out
}

/// Every job of every peer, as a part of dm-linear's throughput.
fn bars(results: &Results) -> Option<String> {
    let jobs: Vec<_> =
        JOBS.iter().filter(|(job, _)| results.speed("linear", job).is_some()).collect();
    if jobs.is_empty() {
        return None;
    }
    let scale = Scale { most: 1.1 };
    let mut out = title("Throughput against dm-linear, in virtual time") + &scale.grid(0.25);
    out += &legend(&WAYS.map(|(_, name, colour)| (colour, name)));
    let group = (WIDTH - LEFT - RIGHT) / jobs.len() as f64;
    let bar = group * 0.8 / WAYS.len() as f64;
    for (place, (job, name)) in jobs.iter().enumerate() {
        let x = LEFT + group * place as f64;
        let base = results.speed("linear", job).unwrap_or(1.0);
        for (number, (way, label, colour)) in WAYS.iter().enumerate() {
            let Some(speed) = results.speed(way, job) else { continue };
            let y = scale.y(speed / base);
            let _ = writeln!(
                out,
                "<rect x=\"{:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\">\
                 <title>{label}: {:.3}</title></rect>",
                x + group * 0.1 + bar * number as f64,
                bar - 1.0,
                TOP + HEIGHT - y,
                speed / base
            );
        }
        let middle = x + group / 2.0;
        for (line, part) in name.split(',').enumerate() {
            let y = TOP + HEIGHT + 16.0 + 14.0 * line as f64;
            let _ = writeln!(
                out,
                "<text x=\"{middle:.1}\" y=\"{y}\" text-anchor=\"middle\">{part}</text>"
            );
        }
    }
    Some(out)
}

/// A sequential fill's throughput over time, where a pause would be a dent.
fn fill(results: &Results) -> Option<String> {
    let ways = [0, 1, 3, 4].map(|n| WAYS[n]);
    let curves: Vec<_> = ways
        .map(|(way, name, colour)| {
            (
                colour,
                if way == "notify" { "notify, as installed" } else { name },
                results.slices(way),
            )
        })
        .into_iter()
        .filter(|(_, _, slices)| !slices.is_empty())
        .collect();
    let points = || curves.iter().flat_map(|(_, _, slices)| slices);
    let (end, most) =
        points().fold((0.0_f64, 0.0_f64), |(t, r), point| (t.max(point.0), r.max(point.1)));
    if end <= 0.0 || most <= 0.0 {
        return None;
    }
    let step = 10.0_f64.powf(most.log10().floor());
    let scale = Scale { most: (most / step).ceil() * step };
    let mut out = title("A sequential fill in real time: MiB/s over seconds") + &scale.grid(step);
    out += &legend(&curves.iter().map(|(colour, name, _)| (*colour, *name)).collect::<Vec<_>>());
    let x = |seconds: f64| LEFT + (WIDTH - LEFT - RIGHT) * seconds / end;
    for (colour, _, slices) in &curves {
        let line: Vec<_> =
            slices.iter().map(|(t, rate)| format!("{:.1},{:.1}", x(*t), scale.y(*rate))).collect();
        let _ = writeln!(
            out,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" points=\"{}\"/>",
            line.join(" ")
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{end:.0} s</text>",
        WIDTH - RIGHT,
        TOP + HEIGHT + 16.0
    );
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::super::results::{Results, tests::sample};
    use super::svg;

    #[test]
    fn panels_are_drawn_for_what_was_measured() {
        let drawing = svg(&sample());
        assert!(drawing.contains("<title>notify, clean headroom: 0.980</title>"), "{drawing}");
        assert_eq!(drawing.matches("<polyline").count(), 2);
        assert_eq!(drawing.matches("<g ").count(), drawing.matches("</g>").count());
        assert!(!svg(&Results::default()).contains("<g "));
    }
}

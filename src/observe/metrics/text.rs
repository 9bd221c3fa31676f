//! From OpenMetrics to the older text format of Prometheus. Pure.
//!
//! They differ in four ways that matter to a reader: in OpenMetrics the family of a counter is named without the `_total`
//! of its samples, units may stand in lines of their own, whole bounds of histograms have a fraction (`1.0`, which Go's
//! clients write as `1`), and the text ends with a mark.

/// The same samples in Prometheus' text format, version 0.0.4.
pub fn without_openmetrics(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 16);
    // Help comes before type, and only the type says whether this is a counter.
    let mut help: Option<(&str, &str)> = None;
    for line in text.lines() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
            continue;
        }
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let suffix = if kind == "counter" { "_total" } else { "" };
            if let Some((_, help)) = help.take().filter(|(of, _)| *of == name) {
                out.extend(["# HELP ", name, suffix, " ", help, "\n"]);
            }
            out.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
            continue;
        }
        match whole_bound(line) {
            Some((before, after)) => out.extend([before, after, "\n"]),
            None => out.extend([line, "\n"]),
        }
    }
    out
}

/// A sample of a bucket whose bound is whole, before and after the `.0` of it. In the value of a label a quote would be
/// escaped, so what looks like the bound is the bound.
fn whole_bound(line: &str) -> Option<(&str, &str)> {
    let start = line.find("{le=\"").or_else(|| line.find(",le=\""))? + 5;
    let end = start + line[start..].find('"')?;
    let whole = line[start..end].strip_suffix(".0")?;
    let bucket = line.split_once('{').is_some_and(|(name, _)| name.ends_with("_bucket"));
    bucket.then(|| (&line[..start + whole.len()], &line[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_get_their_whole_name_and_marks_go() {
        let open = "\
# HELP a Seen things.
# TYPE a counter
a_total{x=\"# EOF\"} 1
# HELP b_seconds Waiting.
# TYPE b_seconds gauge
# UNIT b_seconds seconds
b_seconds 0.5
# TYPE c histogram
c_bucket{of=\"le=\",le=\"0.5\"} 1
c_bucket{of=\"le=\",le=\"10.0\"} 2
c_bucket{of=\"le=\",le=\"+Inf\"} 2
# EOF
";
        let classic = "\
# HELP a_total Seen things.
# TYPE a_total counter
a_total{x=\"# EOF\"} 1
# HELP b_seconds Waiting.
# TYPE b_seconds gauge
b_seconds 0.5
# TYPE c histogram
c_bucket{of=\"le=\",le=\"0.5\"} 1
c_bucket{of=\"le=\",le=\"10\"} 2
c_bucket{of=\"le=\",le=\"+Inf\"} 2
";
        assert_eq!(without_openmetrics(open), classic);
    }
}

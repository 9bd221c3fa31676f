//! Traffic as others record it: access logs, and what Prometheus answers.

use ebb::sim::trace::{DurationUnit, Reading, Recorded, Request, Trace, Values};
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use std::io::Write as _;

fn read(text: &str) -> Result<Trace, String> {
    read_as(text, &Reading::default())
}

fn read_as(text: &str, reading: &Reading<'_>) -> Result<Trace, String> {
    Trace::read("t.log", text.as_bytes(), reading).map_err(|error| error.to_string())
}

/// Requests as (milliseconds from the start, milliseconds they took).
fn requests(trace: &Trace) -> Vec<(u64, Option<u64>)> {
    let Recorded::Requests(requests) = &trace.recorded else { panic!("{trace:?}") };
    requests.iter().map(|Request { at, took }| (at / 1000, took.map(|took| took / 1000))).collect()
}

fn counts(trace: &Trace) -> (u64, Vec<u32>) {
    let Recorded::Counts { bucket, counts } = &trace.recorded else { panic!("{trace:?}") };
    (*bucket / 1000, counts.clone())
}

const ENVOY: &str = r#"[2026-10-10T20:55:36.310Z] "GET /a HTTP/2" 200 - 0 54 226 100 "10.0.35.28" "curl/8" "cc21" "shop" "10.0.2.1:80"
[2026-10-10T20:55:36.100Z] "GET /\"b HTTP/2" 503 UF 0 91 1500 - "-" "curl/8" "cc22" "shop" "-"
"#;
const ISTIO: &str = r#"[2026-10-10T20:55:36.310Z] "GET /a HTTP/1.1" 200 - via_upstream - "-" 0 54 226 100 "-" "curl/8" "cc21" "shop" "10.0.2.1:80"
[2026-10-10T20:55:36.100Z] "GET /b HTTP/1.1" 503 UF upstream_reset - "a reason" 0 91 1500 - "-" "curl/8" "cc22" "shop" "-"
"#;
const ALB: &str = r#"https 2026-10-10T20:55:36.536432Z app/shop/50dc 192.168.131.39:2817 10.0.0.1:80 0.100 0.120 0.006 200 200 34 366 "GET https://shop/ HTTP/1.1" "curl/8" - - arn:x "Root=1" "-" "-" 0 2026-10-10T20:55:36.310000Z "forward" "-" "-" "10.0.0.1:80" "200" "-" "-"
https 2026-10-10T20:55:37.100000Z app/shop/50dc 192.168.131.39:2817 - -1 -1 -1 503 - 34 366 "GET https://shop/ HTTP/1.1" "curl/8" - - arn:x "Root=1" "-" "-" 0 2026-10-10T20:55:37.100000Z "forward" "-" "-" "-" "-" "-" "-"
"#;

#[test]
fn logs_that_tell_when_and_how_long_give_each_request() {
    let ms = Reading { duration_unit: Some(DurationUnit::Millis), ..Reading::default() };
    for (name, text, reading, wants) in [
        // Envoy tells when a request began: the one that took longer came first.
        ("Envoy", ENVOY, Reading::default(), vec![(100, Some(1500)), (310, Some(226))]),
        ("Istio", ISTIO, Reading::default(), vec![(100, Some(1500)), (310, Some(226))]),
        // An ALB tells when it ended: 0.226 s before 36.536; and of a request without a target no time at all.
        ("ALB", ALB, Reading::default(), vec![(310, Some(226)), (1100, Some(0))]),
        (
            "Envoy as JSON",
            "{\"start_time\":\"2026-10-10T20:55:36.310Z\",\"duration\":226,\"response_code\":200}\n\
             {\"start_time\":\"2026-10-10T20:55:36.100Z\",\"duration\":\"1500\",\"response_code\":503}\n",
            ms,
            vec![(100, Some(1500)), (310, Some(226))],
        ),
        (
            "nginx as JSON, which tells when a request ended",
            "{\"time\":\"2026-10-10T20:55:36.310+00:00\",\"request_time\":0.210,\"status\":200}\n\
             {\"time\":\"2026-10-10T22:55:36.500+02:00\",\"request_time\":\"0.050\",\"status\":200}\n",
            Reading::default(),
            vec![(100, Some(210)), (450, Some(50))],
        ),
        (
            "milliseconds since 1970, and a unit in the text",
            "{\"ts\":1791665736310,\"latency\":\"10ms\"}\n\n{\"ts\":1791665736400,\"latency\":\"1.2s\"}\n",
            Reading::default(),
            vec![(200, Some(1200)), (1300, Some(10))],
        ),
    ] {
        let trace = read_as(text, &reading).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(requests(&trace), wants, "{name}");
    }
}

#[test]
fn a_log_in_whole_seconds_without_durations_is_requests_per_second() {
    let text = "\
10.0.0.1 - - [10/Oct/2026:13:55:36 -0700] \"GET / HTTP/1.1\" 200 2326
10.0.0.1 - frank [10/Oct/2026:13:55:36 -0700] \"GET /a HTTP/1.1\" 200 2326 \"http://x/\" \"Mozilla/5.0 (X11)\"
::1 - - [10/Oct/2026:13:55:39 -0700] \"\\x16\\x03\" 400 - \"-\" \"-\"
10.0.0.1 - - [10/Oct/2026:13:55:38 -0700] \"GET / HTTP/1.1\" 200 2326
";
    let trace = read(text).expect("a trace");
    assert_eq!(counts(&trace), (1000, vec![2, 0, 1, 1]));
    // The same in another zone, compressed.
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text.replace(":13:", ":22:").replace("-0700", "+0200").as_bytes()).expect("in memory");
    let bytes = encoder.finish().expect("in memory");
    let again = Trace::read("t.log", bytes.as_slice(), &Reading::default()).expect("a trace");
    assert_eq!(trace, again);
    let error = Trace::read("t.log", &bytes[..bytes.len() - 12], &Reading::default()).expect_err("cut").to_string();
    assert!(error.contains("ends early; copy it again"), "{error}");
}

#[test]
fn a_log_in_whole_seconds_with_durations_spreads_requests_over_their_second() {
    let line = |second: u32, rest: &str| {
        format!("10.0.0.1 - - [10/Oct/2026:13:55:{second} +0000] \"GET / HTTP/1.1\" 200 2326 \"-\" \"curl/8\"{rest}\n")
    };
    for (name, rest) in [("nginx", " 0.250"), ("named", " rt=0.250 uct=0.001"), ("named", " request_time=0.250")] {
        let text: String = (0..40).map(|number| line(10 + number / 20, rest)).collect();
        let trace = read(&text).expect("a trace");
        let got = requests(&trace);
        assert_eq!(got.len(), 40, "{name}");
        assert!(got.iter().all(|(_, took)| *took == Some(250)), "{name}: {got:?}");
        // A quarter of a second before somewhere in the seconds 10 and 11, from the second 9 on.
        assert!(got.iter().all(|(at, _)| (750..2750).contains(at)), "{name}: {got:?}");
        let mut places: Vec<u64> = got.iter().map(|(at, _)| at % 1000).collect();
        places.sort_unstable();
        places.dedup();
        assert!(places.len() > 20, "{name}: {places:?}");
        assert_eq!(trace, read(&text).expect("a trace"), "{name}: the same places each time");
    }
    // Where the scenario says how long requests take, only their number counts.
    let text: String = (0..40).map(|number| line(10 + number / 20, " 0.000")).collect();
    let counted = read_as(&text, &Reading { without_durations: true, ..Reading::default() }).expect("a trace");
    assert_eq!(counts(&counted), (1000, vec![20, 20]));
}

#[test]
fn requests_that_do_not_tell_take_as_long_as_the_one_before_and_that_is_said() {
    let text = "{\"ts\":100.1,\"request_time\":\"-\"}\n{\"ts\":100.5,\"request_time\":0.2}\n{\"ts\":100.9}\n";
    let trace = read(text).expect("a trace");
    assert_eq!(requests(&trace), [(100, Some(200)), (300, Some(200)), (900, Some(200))]);
    assert_eq!(trace.notes, ["2 of 3 requests do not tell how long they took, and take as long as the one before"]);
}

#[test]
fn a_log_that_cannot_be_right_is_refused_with_its_line_and_the_way_out() {
    let common = "h - - [10/Oct/2026:13:55:36 +0000] \"GET / HTTP/1.1\" 200 1\n";
    for (text, wants) in [
        (format!("{common}oops\n"), "t.log:2: is not a line of a common or combined log"),
        (format!("{common}{}", &common[..40]), "copy the log again (it is the last line, and cut short)"),
        (format!("{common}{}", common.replace("200", "ok")), "t.log:2: is not a line"),
        (format!("{common}{}", common.replace("10/Oct", "40/Oct")), "t.log:2: is not a line"),
        (
            format!("{common}\n{}", common.replace("13:55", "12:55")),
            "t.log:3: time goes back by 1h0m0s; join the files",
        ),
        (format!("{common}{}", common.replace("2026", "2086")), "a log is at most ten years long"),
        (format!("{common}{}", common.replace("GET", &"x".repeat(70_000))), "t.log:2: is longer than 64 KiB"),
        (format!("{ENVOY}{}", &ENVOY[..57]), "t.log:3: is not a line of Envoy's log"),
        (format!("{ALB}{}", &ALB[..70]), "t.log:3: is not a line of an ALB log"),
        ("{\"ts\":1,\"x\":1}\n{\"ts\":2,\n".to_owned(), "t.log:2: is not a JSON object: EOF while parsing"),
        ("{\"at\":1}\n".to_owned(), "t.log:1: has no time; it is the field start_time, StartUTC"),
        ("{\"ts\":\"yesterday\"}\n".to_owned(), "t.log:1: ts: \"yesterday\" is no time; it is text such as"),
        ("{\"ts\":1,\"duration\":12}\n".to_owned(), "duration: 12 has no unit; write load.trace.duration_unit: ms"),
        ("{\"ts\":1,\"request_time\":-1}\n".to_owned(), "request_time: -1 is no duration; it is a number from 0"),
        ("{\"ts\":1,\"request_time\":\"soon\"}\n".to_owned(), "request_time: \"soon\" is no duration"),
    ] {
        let error = read(&text).expect_err(wants);
        assert!(error.contains(wants) && error.starts_with("t.log"), "{error}\nhas no\n{wants}");
    }
    let error = Trace::read("t.log", [common.as_bytes(), b"\xff\xfe\n"].concat().as_slice(), &Reading::default())
        .expect_err("not text")
        .to_string();
    assert_eq!(error, "t.log:2: is not text");
}

fn matrix(result: &str) -> String {
    format!("{{\"status\":\"success\",\"data\":{{\"resultType\":\"matrix\",\"result\":[{result}]}}}}")
}

#[test]
fn a_range_query_gives_the_requests_of_its_steps() {
    let named = |name: &str, values: &str| format!("{{\"metric\":{{\"__name__\":\"{name}\"}},\"values\":[{values}]}}");
    let one = |values: &str| format!("{{\"metric\":{{}},\"values\":[{values}]}}");
    let as_values = |values| Reading { values: Some(values), ..Reading::default() };
    for (name, text, reading, wants) in [
        (
            "requests since the step before, of two series, of which one comes later",
            matrix(&format!("{},{}", one("[1000,\"3\"],[1060,\"5\"],[1120,\"0\"]"), one("[1060,\"1\"],[1120,\"2\"]"))),
            as_values(Values::Increase),
            (60_000, vec![3, 6, 2]),
        ),
        (
            "a rate, whose fractions are carried over",
            matrix(&one("[0,\"0.25\"],[10,\"0.05\"],[20,\"0.05\"],[30,\"0.05\"]")),
            as_values(Values::Rate),
            // 2.5, 0.5, 0.5, 0.5
            (10_000, vec![2, 1, 0, 1]),
        ),
        (
            "a counter known by its name, that begins anew",
            matrix(&named("http_requests_total", "[0,\"100\"],[30,\"110\"],[60,\"4\"],[90,\"4\"]")),
            Reading::default(),
            (30_000, vec![10, 4, 0]),
        ),
        (
            "counters of pods that come, and a gap of which nobody knows more than the sum",
            matrix(&format!(
                "{},{}",
                named("revision_request_count", "[0,\"0\"],[10,\"5\"],[40,\"35\"],[50,\"35\"]"),
                named("revision_request_count", "[20,\"7\"],[30,\"8\"]")
            )),
            Reading::default(),
            // 5; then 10 in each of three steps; beside them 7 and 1.
            (10_000, vec![5, 17, 11, 10, 0]),
        ),
        (
            "as promtool prints it",
            format!(" [\n {} ]", one("[0,\"1\"],[60,\"2\"]")),
            as_values(Values::Increase),
            (60_000, vec![1, 2]),
        ),
    ] {
        let trace = read_as(&text, &reading).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(counts(&trace), wants, "{name}");
        assert!(trace.notes.is_empty(), "{name}: {:?}", trace.notes);
    }
    let text = matrix(&one("[0,\"1\"],[10,\"2\"],[40,\"3\"]"));
    let trace = read_as(&text, &as_values(Values::Increase)).expect("a trace");
    assert_eq!(counts(&trace), (10_000, vec![1, 2, 0, 0, 3]));
    assert_eq!(trace.notes, ["2 of 5 steps have no sample, and count as without requests"]);
}

#[test]
fn an_answer_that_cannot_be_right_is_refused_with_the_way_out() {
    let values = |values: &str| matrix(&format!("{{\"metric\":{{}},\"values\":[{values}]}}"));
    for (text, wants) in [
        (values("[0,\"1\"],[60,\"2\"]"), "t.log: what its values are is not known; write load.trace.values: increase"),
        (values("[0,\"1\"],[60,\"-2\"]"), "t.log:1: \"-2\" is no number of requests"),
        (values("[0,\"1\"],[60,\"NaN\"]"), "\"NaN\" is no number of requests"),
        (values("[60,\"1\"],\n[0,\"2\"]"), "t.log:2: time goes from 60 to 0; each sample is later"),
        (values("[0,\"1\"],[60,\"2\"],[150,\"2\"]"), "the sample at 150 is not a whole number of steps"),
        (values("[0,\"1\"]"), "one sample of each series only; ask for at least two steps"),
        (values(""), "there is no sample in it; did the query match any series?"),
        (matrix(""), "there is no sample in it"),
        (values("[0,\"1\"],[60,\"2\"]")[..90].to_owned(), "the answer ends early; copy it again"),
        (
            "{\"status\":\"error\",\"errorType\":\"bad_data\",\"error\":\"parse error\"}".to_owned(),
            "Prometheus refused the query: parse error",
        ),
        (
            "{\"status\":\"success\",\"data\":{\"resultType\":\"vector\",\"result\":[{\"metric\":{},\"value\":[1,\"2\"]}]}}"
                .to_owned(),
            "is the answer to an instant query (vector); ask /api/v1/query_range",
        ),
    ] {
        let error = read(&text).expect_err(wants);
        assert!(error.contains(wants) && error.starts_with("t.log"), "{error}\nhas no\n{wants}");
    }
}

proptest! {
    /// Whatever a file holds, it is a trace or an error that names it; never anything else.
    #[test]
    fn nothing_that_is_read_does_harm(
        start in prop_oneof![
            Just(""), Just("{\"status\":\"success\",\"data\":{"), Just("{\"ts\":1}\n"), Just("[2026-10-10T20:55:36.310Z] "),
            Just("https 2026-10-10T20:55:36.5Z "), Just("h - - [10/Oct/2026:13:55:36 +0000] \"GET\" 200 1\n"),
            Just("minute,requests\n"), Just("at,duration\n"),
        ],
        rest in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..200),
            "[\\[\\]{}\",:0-9a-z .\\n-]{0,200}".prop_map(String::into_bytes),
        ],
    ) {
        let bytes = [start.as_bytes(), &rest].concat();
        if let Err(error) = Trace::read("t.log", bytes.as_slice(), &Reading::default()) {
            prop_assert!(error.to_string().starts_with("t.log"), "{error}");
        }
    }

    /// Every request of a log is one of its trace, however the log is cut into lines that stand back in time a little.
    #[test]
    fn a_log_has_as_many_requests_as_lines(seconds in proptest::collection::vec(0_u32..50, 1..60)) {
        let line = |second| format!("h - - [10/Oct/2026:13:55:{second:02} +0000] \"GET / HTTP/1.1\" 200 1\n");
        let lines: Vec<String> = seconds.iter().map(line).collect();
        prop_assert_eq!(read(&lines.concat()).expect("a trace").requests(), seconds.len() as u64);
    }
}

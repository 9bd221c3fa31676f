//! What people write, and get wrong: each error says where, what, and the way out.

use ebb::sim::trace::{Reading, Recorded, Trace};
use ebb::sim::{Case, scenario};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::Write as _;

/// A scenario that is right, with one line changed.
fn changed(from: &str, to: &str) -> String {
    let text = "\
apiVersion: sim/v1
name: shop
duration: 10m
warm_up: 1m
load:
  synthetic: { poisson: { rate: 5 } }
  service: { law: lognormal, mean: 200ms, p99: 1s }
revision:
  containerConcurrency: 10
  annotations: { autoscaling.knative.dev/window: \"60s\" }
world:
  activators: 2
policies:
  - { name: defaults, kpa: {} }
slo: { latency: 1s, errors: 0.1% }
";
    assert!(text.contains(from), "{from}");
    text.replacen(from, to, 1)
}

#[test]
fn a_scenario_that_is_right_is_taken() {
    let scenario = scenario::parse("shop.yaml", &changed("", "")).expect("a scenario");
    assert_eq!(scenario.name, "shop");
    Case::new(scenario, None).expect("a case");
}

#[test]
fn every_mistake_is_told_with_its_place_and_the_way_out() {
    for (from, to, wants) in [
        ("warm_up: 1m", "warmup: 1m", "shop.yaml:4:1: warmup: unknown field; did you mean \"warm_up\"?"),
        ("rate: 5", "rat: 5", "did you mean \"rate\"?"),
        ("poisson: { rate: 5 }", "poison: { rate: 5 }", "did you mean \"poisson\"?"),
        ("rate: 5", "rate: -5", "shop.yaml:6:27: load.synthetic.poisson.rate: -5 requests per second is not from 0"),
        ("mean: 200ms", "mean: 200", "load.service.mean: 200 has no unit; write 200s or 200ms"),
        ("mean: 200ms", "mean: -1s", "\"-1s\" is negative"),
        ("mean: 200ms", "mean: 10ms", "p99 of a log-normal law is from 1 to 14.97 times its mean"),
        ("law: lognormal", "law: normal", "\"normal\" is not a law; known are constant"),
        (", p99: 1s", "", "lognormal takes two of mean, median and p99, or mean and cv, and has mean"),
        ("duration: 10m", "duration: 30s", "30s is not longer than the warm_up of 1m0s"),
        ("duration: 10m\n", "", "duration: missing; a synthetic load has no end of its own"),
        ("errors: 0.1%", "errors: 10", "10 is not a part of a whole; it is from 0 to 1, or from 0% to 100%"),
        ("activators: 2", "activators: 0", "world.activators: 0 is not from 1 to 1000"),
        ("\"60s\"", "\"1s\"", "autoscaling.knative.dev/window"),
        (
            "window: \"60s\"",
            "min-scale: \"5\", autoscaling.knative.dev/max-scale: \"2\"",
            "autoscaling.knative.dev/min-scale",
        ),
        ("window: \"60s\"", "windw: \"60s\"", "autoscaling.knative.dev/windw"),
        ("kpa: {}", "kpa: { annotations: { autoscaling.knative.dev/window: \"1s\" } }", "shop.yaml:14:"),
        ("kpa: {}", "kpq: {}", "did you mean \"kpa\"?"),
        (", kpa: {}", "", "policies[0]: is exactly one of kpa, hpa"),
        ("kpa: {}", "hpa: { min: 5, max: 2 }", "policies[0].hpa.max: 2 is below min, 5"),
        ("apiVersion: sim/v1", "apiVersion: sim/v9", "write \"apiVersion: sim/v1\""),
        ("apiVersion: sim/v1\n", "", "apiVersion is missing"),
        ("name: shop", "name: [shop", "shop.yaml:"),
    ] {
        let problems = scenario::parse("shop.yaml", &changed(from, to)).expect_err(to).to_string();
        assert!(problems.contains(wants), "{to:?}:\n{problems}\nhas no\n{wants}");
        assert!(problems.starts_with("shop.yaml:"), "{problems}");
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let text = changed("rate: 5", "rate: -5").replace("activators: 2", "activators: 0").replace("slo:", "sloo:");
    let problems = scenario::parse("shop.yaml", &text).expect_err("three mistakes");
    assert_eq!(problems.0.len(), 3, "{problems}");
}

#[test]
fn a_trace_that_cannot_be_right_is_refused_with_its_line() {
    for (text, wants) in [
        ("minute,requests\n0,1\n1,2\n3,4\n", "t.csv:4: the bucket after 1 is 2, not 3"),
        ("minute,requests\n0,1\n1,2\n0,4\n", "t.csv:4: time goes from 1 to 0"),
        ("minute,requests\n0,1\n1,-2\n", "t.csv:3: requests \"-2\" is not a number of requests"),
        ("minute,requests\n0,1\n1,many\n", "t.csv:3: requests \"many\""),
        ("minute,requests\n0,1\n1\n", "t.csv:3: the line ends before its requests; is the file cut short?"),
        ("minute,requests\nx,1\n", "t.csv:2: \"x\" is not the start of a bucket"),
        ("time,count\n0,1\n", "t.csv:1: the columns are time,count; known are second,requests"),
        ("second,minute,requests\n0,0,1\n", "both a second and a minute column"),
        ("minute,requests\n", "there is no bucket in it"),
        ("minute,requests\n0,0\n1,0\n", "there is no request in it"),
        ("", "t.csv: it is empty"),
        ("at,duration\n1,0.5\n0.5,1\n", "t.csv:3: time goes backwards"),
        ("at,duration\n1,-0.5\n", "t.csv:2: duration \"-0.5\" is not a number of seconds"),
    ] {
        let error = Trace::read("t.csv", text.as_bytes(), &Reading::default()).expect_err(text).to_string();
        assert!(error.contains(wants) && error.starts_with("t.csv"), "{text:?}: {error}");
    }
    let error = Trace::read(
        "t.csv",
        "function,minute,requests\nf0,1,2\n".as_bytes(),
        &Reading { function: Some("f9"), ..Reading::default() },
    )
    .expect_err("no such one");
    assert!(error.to_string().contains("there is no function \"f9\" in it; there are f0"), "{error}");
    let error = Trace::read("t.csv", [0xff, 0xfe, 0x00, b'\n'].as_slice(), &Reading::default()).expect_err("not text");
    assert!(error.to_string().contains("not text"), "{error}");
}

#[test]
fn a_last_line_without_an_end_is_told_since_its_number_may_be_cut() {
    let notes = |text: &str| Trace::read("t.csv", text.as_bytes(), &Reading::default()).expect("a trace").notes;
    assert_eq!(notes("minute,requests\n0,123\n1,45\n"), [] as [String; 0]);
    let told = notes("minute,requests\n0,123\n1,4");
    assert!(told.len() == 1 && told[0].contains("the last line has no end"), "{told:?}");
}

#[test]
fn a_compressed_trace_is_read_and_a_cut_one_is_refused() {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(b"minute,requests\n").expect("in memory");
    for minute in 0..5000 {
        writeln!(encoder, "{minute},{}", minute * 7919 % 1000).expect("in memory");
    }
    let bytes = encoder.finish().expect("in memory");
    let trace = Trace::read("t.csv.gz", bytes.as_slice(), &Reading::default()).expect("a trace");
    assert!(matches!(&trace.recorded, Recorded::Counts { counts, bucket: 60_000_000 } if counts.len() == 5000));
    let error = Trace::read("t.csv.gz", &bytes[..bytes.len() / 2], &Reading::default()).expect_err("cut");
    assert!(error.to_string().contains("ends early; copy it again"), "{error}");
}

#[test]
fn five_minute_buckets_are_known_by_their_distance() {
    let trace =
        Trace::read("t.csv", "minute,requests\n0,1\n5,2\n10,0\n".as_bytes(), &Reading::default()).expect("a trace");
    assert_eq!(trace.recorded, Recorded::Counts { bucket: 300_000_000, counts: vec![1, 2, 0] });
}

#[test]
fn a_trace_without_durations_needs_a_service_law() {
    let text = changed("synthetic: { poisson: { rate: 5 } }", "trace: { file: t.csv }")
        .replace("  service: { law: lognormal, mean: 200ms, p99: 1s }\n", "")
        .replace("duration: 10m\n", "")
        .replace("warm_up: 1m\n", "");
    let scenario = scenario::parse("shop.yaml", &text).expect("a scenario");
    let trace = Trace::read("t.csv", "minute,requests\n0,100\n".as_bytes(), &Reading::default()).expect("a trace");
    let error = Case::new(scenario, Some(trace)).expect_err("no law").to_string();
    assert!(error.contains("load.service: missing, and t.csv does not say how long requests took"), "{error}");
}

#[test]
fn traffic_from_elsewhere_needs_no_load_but_all_else_is_judged() {
    let without = "apiVersion: sim/v1\nname: w\nload: { timeout: 60s }\npolicies: [{ name: a, kpa: {} }]\n";
    let problems = scenario::parse("w.yaml", without).expect_err("no load").to_string();
    assert!(problems.contains("load: there are no requests"), "{problems}");
    scenario::parse_for_traffic("w.yaml", without).expect("a scenario");
    for (wrong, wants) in [
        (without.replace("timeout: 60s", "timeout: 0s"), "load.timeout: is above 0s"),
        (without.replace("timeout: 60s", "service: { law: normal }"), "\"normal\" is not a law"),
        (without.replace("kpa: {}", "kpa: { predictive: { mode: maybe } }"), "\"maybe\" is none of off, shadow and on"),
        (without.replace("kpa: {}", "kpa: { predictive: { quantile: 1 } }"), "1 is not from 0.5 to below 1"),
    ] {
        let problems = scenario::parse_for_traffic("w.yaml", &wrong).expect_err(&wrong).to_string();
        assert!(problems.contains(wants), "{problems}");
    }
    for (word, mode) in [("on", "On"), ("\"on\"", "On"), ("off", "Off"), ("shadow", "Shadow")] {
        let text = without.replace("kpa: {}", &format!("kpa: {{ predictive: {{ mode: {word} }} }}"));
        let scenario = scenario::parse_for_traffic("w.yaml", &text).unwrap_or_else(|problems| panic!("{problems}"));
        let predictive = scenario.policies[0].kpa.as_ref().and_then(|kpa| kpa.predictive).expect("predictive");
        assert_eq!(format!("{:?}", predictive.mode), mode);
    }
}

//! What the page's history costs with 10,000 revisions, all of whose loads move: `cargo bench --bench page`.
//!
//! One look is made every two seconds; the rest only when somebody looks.

use divan::{Bencher, black_box};
use ebb::observe::state::State;
use ebb::observe::ui::History;
use ebb::observe::ui::history::{EVERY, Sight};
use ebb::units::{RevisionKey, Span, Timestamp};

fn main() {
    divan::main();
}

/// 2026-08-01T00:00:00Z.
const START: Timestamp = Timestamp::from_seconds(1_785_542_400);
const REVISIONS: u16 = 10_000;

/// Two looks that differ in every load, for turns.
fn looks() -> [Vec<(RevisionKey, Sight)>; 2] {
    [1.0, 2.0].map(|factor| {
        let sight = |number| Sight {
            stable: f32::from(number) * factor,
            panic: f32::from(number) * factor,
            target: 7.0,
            wanted: 3,
            ready: 3,
            state: State::Steady,
            ..Sight::default()
        };
        let key = |number| RevisionKey::new("default", &format!("shop-{number:05}-00001"));
        (0..REVISIONS).map(|number| (key(number), sight(number))).collect()
    })
}

fn look(history: &History, looks: &[Vec<(RevisionKey, Sight)>; 2], number: i64) {
    history.begin(START + Span::from_nanos(EVERY.nanos() * number));
    for some in looks[usize::from(number % 2 == 1)].chunks(64) {
        history.note(some.iter().cloned());
    }
    history.end(0);
}

/// After a quarter of an hour.
fn filled(looks: &[Vec<(RevisionKey, Sight)>; 2]) -> History {
    let history = History::default();
    (0..450).for_each(|number| look(&history, looks, number));
    history
}

#[divan::bench]
fn a_look_at_all(bencher: Bencher) {
    let looks = looks();
    let history = filled(&looks);
    let mut number = 450;
    bencher.bench_local(|| {
        look(&history, &looks, number);
        number += 1;
    });
}

#[divan::bench]
fn the_rows_of_the_whole_list(bencher: Bencher) {
    let history = filled(&looks());
    bencher.bench_local(|| black_box(history.since(0)));
}

#[divan::bench]
fn the_points_of_one(bencher: Bencher) {
    let history = filled(&looks());
    let key = RevisionKey::new("default", "shop-04711-00001");
    bencher.bench_local(|| black_box(history.points(&key, START)));
}

//! Seeds that are played by every run of the tests, and the one that somebody names.

use std::process::Command;
use std::time::Duration;

use tokio::time::Instant;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt as output;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry;

use super::chance::Chance;
use super::seeded;
use super::world::World;

/// How a seed is named from outside, with the number of machines and of hours.
const SEED: &str = "GARRISON_SIM_SEED";
const NODES: &str = "GARRISON_SIM_NODES";
const HOURS: &str = "GARRISON_SIM_HOURS";
/// What control and the agents log of it, as in `garrison --log`: nothing if it is not set.
const LOG: &str = "GARRISON_SIM_LOG";
/// The test that plays the seed it is given.
const PLAY: &str = "sim::tests::the_seed_that_is_named";

/// What a simulation is made of.
#[derive(Debug, Clone, Copy)]
struct Game {
    seed: u64,
    nodes: usize,
    hours: f64,
}

impl Game {
    /// Plays it on a thread of its own, and gives what should not have happened.
    fn play(self) -> Result<(), String> {
        std::thread::spawn(move || {
            seeded::seed(self.seed);
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let targets: Targets = setting(LOG).unwrap_or_default();
                let log = output::layer().with_ansi(false).with_timer(Age(Instant::now())).with_writer(std::io::stdout);
                let _logs = tracing::subscriber::set_default(registry().with(targets).with(log));
                seeded::start_clock();
                let mut world = World::new(Chance::new(self.seed), self.nodes, aloud).await;
                self.lead(&mut world).await
            })
        })
        .join()
        .unwrap()
    }

    async fn lead(self, world: &mut World) -> Result<(), String> {
        while world.age() < Duration::from_secs_f64(self.hours * 3600.0) {
            world.step().await?;
        }
        world.settle().await
    }

    /// Plays it in a process of its own; what that wrote, and whether all was well.
    fn play_apart(self) -> (String, bool) {
        let output = Command::new(std::env::current_exe().unwrap())
            .args([PLAY, "--exact", "--nocapture", "--test-threads=1"])
            .env(SEED, self.seed.to_string())
            .env(NODES, self.nodes.to_string())
            .env(HOURS, self.hours.to_string())
            .output()
            .unwrap();
        let written = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (written, output.status.success())
    }
}

/// The time since a simulation began, as steps are told with it.
struct Age(Instant);

impl FormatTime for Age {
    fn format_time(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
        write!(writer, "{:>9.3}", self.0.elapsed().as_secs_f64())
    }
}

/// Also of a seed that never ends.
fn aloud(line: &str) {
    println!("{line}");
}

fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

#[test]
fn the_seed_that_is_named() {
    let Some(seed) = setting(SEED) else { return };
    let game = Game { seed, nodes: setting(NODES).unwrap_or(3), hours: setting(HOURS).unwrap_or(1.0) };
    if let Err(wrong) = game.play() {
        panic!("{game:?}:\n{wrong}");
    }
}

#[test]
fn a_few_fleets_live_as_they_should() {
    for seed in 1..=3 {
        let (written, well) = Game { seed, nodes: 3, hours: 0.5 }.play_apart();
        assert!(well, "make sim SEED={seed} NODES=3 HOURS=0.5\n{written}");
    }
}

#[test]
fn a_seed_plays_the_same_again() {
    let play = || {
        let (written, _) = Game { seed: 7, nodes: 3, hours: 0.2 }.play_apart();
        let told = |line: &&str| line.starts_with(' ');
        written.lines().filter(told).map(str::to_owned).collect::<Vec<_>>()
    };
    let (first, second) = (play(), play());
    assert!(first.len() > 10, "{first:?}");
    assert_eq!(first, second);
}

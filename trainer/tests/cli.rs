//! The commands as a person meets them: the built program, its files and its exit status.

use std::{
    convert::Infallible,
    io::Write,
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{Bytes, Tensor},
};
use burn_pack::{Reader, Writer};
use fashion_ddpm::{
    Garment, Sampler, UNet,
    noise::PIXELS,
    sampler::to_pixels,
    weights::{Index, checksum, decode},
};
use flate2::{Compression, write::GzEncoder};
use tempfile::{TempDir, tempdir};
use trainer::{
    Dataset, Split, Trainer, checkpoint,
    evaluate::Report,
    network::NetworkFigures,
    walk::{Walk, Walker},
};

/// The fewest steps and images that `evaluate` has something to say about.
const WALK: [&str; 8] = [
    "--sampler",
    "ddim",
    "--steps",
    "2",
    "--device",
    "cpu",
    "--count",
    "20",
];

/// A network for tests: 129,168 numbers at 7 x 7.
const NETWORK: &str = r#"{"image_size": 28, "pixel_unshuffle": 4, "channels": [16], "blocks": 1,
    "attention": [false], "groups": 8, "classes": 10}"#;

fn excerpt() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/excerpt")
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trainer"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn train(run: &Path, epochs: &str, more: &[&str]) -> Command {
    let excerpt = excerpt();
    let mut arguments = vec!["train", "--device", "cpu", "--data", text(&excerpt)];
    arguments.extend(["--epochs", epochs, "--run", text(run), "--network", NETWORK]);
    arguments.extend(more);
    let mut command = command(&arguments);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Goes on with a run: nobody has to repeat where it was to end.
fn go_on(run: &Path) -> Command {
    let excerpt = excerpt();
    let arguments = on_excerpt(&excerpt, run, &["--resume"]);
    let mut command = command(&arguments);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// A finished run of one epoch and its export.
fn weights() -> (TempDir, PathBuf) {
    let folder = tempdir().unwrap();
    let (run_folder, out) = (
        folder.path().join("run"),
        folder.path().join("weights/a.bpk"),
    );
    assert!(train(&run_folder, "1", &[]).status().unwrap().success());
    assert!(
        run(&["export", text(&run_folder), "--out", text(&out)])
            .status
            .success()
    );
    (folder, out)
}

/// One line on stderr that holds `word`, nothing on stdout, and a status other than 0.
fn assert_refused(arguments: &[&str], word: &str) {
    let output = run(arguments);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{arguments:?}");
    assert!(output.status.code().is_some(), "{arguments:?} was killed");
    let last = stderr.lines().last().unwrap_or_default();
    assert!(
        last.starts_with("error: ") && last.contains(word),
        "{stderr}"
    );
    let errors = stderr.lines().filter(|line| line.starts_with("error"));
    assert_eq!(errors.count(), 1, "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    assert!(output.stdout.is_empty());
}

fn wait_for(path: &Path, child: &mut Child) {
    let begun = Instant::now();
    while !path.exists() {
        assert!(
            begun.elapsed() < Duration::from_secs(120),
            "no {}",
            path.display()
        );
        assert!(child.try_wait().unwrap().is_none(), "it ended too early");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Ctrl-C, where a program can press it; elsewhere the run is killed twice.
fn interrupt(child: &mut Child) {
    #[cfg(unix)]
    {
        // SAFETY: the process is our own child and has not been waited for.
        assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGINT) }, 0);
        assert!(child.wait().unwrap().success(), "Ctrl-C is no failure");
    }
    #[cfg(not(unix))]
    child.kill().unwrap();
}

fn state(run: &Path) -> Trainer {
    let data = Arc::new(Dataset::read(&excerpt(), Split::Train).unwrap());
    let bytes = std::fs::read(run.join("checkpoint.bpk")).unwrap();
    checkpoint::decode(&bytes, data, &kernels::cpu()).unwrap()
}

fn bits(model: &UNet) -> Vec<u32> {
    struct Collect(Vec<u32>);
    impl ModuleVisitor for Collect {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let data = param.val().into_data_as::<f32>();
            self.0.extend(
                data.try_to_vec::<f32>()
                    .unwrap()
                    .into_iter()
                    .map(f32::to_bits),
            );
        }
    }
    let mut collect = Collect(Vec::new());
    model.valid().visit(&mut collect);
    collect.0
}

/// Stopped by Ctrl-C, gone on with, killed without warning, gone on with: the weights, the average
/// and the losses are those of the run that nobody disturbed, bit for bit.
#[test]
fn a_killed_run_goes_on_as_if_it_had_not_been_killed() {
    let folder = tempdir().unwrap();
    let (calm, rough) = (folder.path().join("calm"), folder.path().join("rough"));
    // Epochs of many steps, to be stopped within the first.
    let small = ["--batch-size", "4"];
    let mut undisturbed = train(&calm, "4", &small).spawn().unwrap();

    let mut child = train(&rough, "4", &small).spawn().unwrap();
    // The handler stands before the checkpoint does.
    wait_for(&rough.join("checkpoint.bpk"), &mut child);
    thread::sleep(Duration::from_millis(200));
    interrupt(&mut child);
    child.wait().unwrap();
    let stopped = state(&rough);
    assert!(stopped.position().epoch < 4, "it was broken off");
    #[cfg(unix)]
    assert!(stopped.position().step > 0, "Ctrl-C saves what was done");

    let mut child = go_on(&rough).spawn().unwrap();
    let next = stopped.position().epoch + 1;
    wait_for(&rough.join(format!("ema/epoch-{next:03}.bpk")), &mut child);
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success());
    assert!(state(&rough).position().epoch < 4);

    assert!(go_on(&rough).status().unwrap().success());
    assert!(undisturbed.wait().unwrap().success());
    let (calm_state, rough_state) = (state(&calm), state(&rough));
    assert_eq!(calm_state.position().epoch, 4);
    let losses = |trainer: &Trainer| -> Vec<u64> {
        let history = trainer.position().history.iter();
        history.map(|record| record.loss.to_bits()).collect()
    };
    assert_eq!(losses(&calm_state), losses(&rough_state));
    assert_eq!(bits(calm_state.model()), bits(rough_state.model()));
    assert_eq!(bits(calm_state.averaged()), bits(rough_state.averaged()));
    assert_ne!(
        bits(calm_state.model()),
        bits(stopped.model()),
        "it learned"
    );

    // One line an epoch, though one of them was begun three times; and pictures to look at.
    let log = std::fs::read_to_string(rough.join("log.jsonl")).unwrap();
    assert_eq!(log.lines().count(), 4);
    let record: serde_json::Value =
        serde_json::from_slice(&std::fs::read(rough.join("run.json")).unwrap()).unwrap();
    assert_eq!(record["sessions"].as_array().unwrap().len(), 3);
    for picture in [
        "loss.svg",
        "samples-epoch-001-ddpm100.png",
        "samples-epoch-004-ddpm100.png",
    ] {
        assert!(rough.join(picture).exists(), "{picture}");
    }

    let run_folder = text(&rough);
    let data = excerpt();
    let again = [
        "train",
        "--device",
        "cpu",
        "--data",
        text(&data),
        "--run",
        run_folder,
    ];
    assert_refused(&again, "--resume");
    assert_refused(
        &[&again[..], &["--resume", "--seed", "3"]].concat(),
        "--seed 0, not 3",
    );
    // An end that is past already is none, and the run does not forget its own.
    assert_refused(
        &[&again[..], &["--resume", "--epochs", "3"]].concat(),
        "more --epochs",
    );
    assert!(run(&[&again[..], &["--resume"]].concat()).status.success());
    let kept = std::fs::read(rough.join("run.json")).unwrap();
    let kept: serde_json::Value = serde_json::from_slice(&kept).unwrap();
    assert_eq!(kept["ends_after_step"], record["ends_after_step"]);
    let checkpoint = rough.join("checkpoint.bpk");
    std::fs::write(&checkpoint, b"half").unwrap();
    assert_refused(
        &[&again[..], &["--resume"]].concat(),
        "checkpoint is damaged",
    );
    // Nor is a run begun over what is left of another one.
    std::fs::remove_file(&checkpoint).unwrap();
    assert_refused(&again, "log.jsonl of another run");
    std::fs::rename(rough.join("log.jsonl"), folder.path().join("log.jsonl")).unwrap();
    assert_refused(&again, "of another run");

    // Every epoch can be exported, the last one by default; an epoch that is not there cannot.
    let out = folder.path().join("weights");
    for (name, more) in [("two.bpk", &["--epoch", "2"][..]), ("four.bpk", &[])] {
        let path = out.join(name);
        let export = run(&[&["export", run_folder, "--out", text(&path)], more].concat());
        assert!(export.status.success(), "{export:?}");
    }
    let index: Index =
        serde_json::from_slice(&std::fs::read(out.join("index.json")).unwrap()).unwrap();
    assert_eq!(index.default, "four.bpk");
    let (files, epochs): (Vec<_>, Vec<_>) = index
        .models
        .iter()
        .map(|m| (m.file.as_str(), m.epoch))
        .unzip();
    assert_eq!((files, epochs), (vec!["two.bpk", "four.bpk"], vec![2, 4]));
    let there = out.join("index.json");
    let out = out.join("x.bpk");
    assert_refused(
        &["export", run_folder, "--epoch", "9", "--out", text(&out)],
        "1 to 4",
    );
    std::fs::write(&there, b"{}").unwrap();
    assert_refused(&["export", run_folder, "--out", text(&out)], "index.json");
    assert_refused(
        &["export", run_folder, "--out", text(&there)],
        "names no file of weights",
    );
    assert!(
        !out.exists(),
        "nothing is written beside an index that cannot be kept"
    );
}

/// `nohup` starts a program that the end of its terminal is not to end.
#[cfg(unix)]
#[test]
fn a_run_started_by_nohup_outlives_its_terminal() {
    use std::os::unix::process::CommandExt;
    let folder = tempdir().unwrap();
    let [nohup, plain] = [libc::SIG_IGN, libc::SIG_DFL].map(|hangup| {
        let run = folder.path().join(format!("run-{hangup}"));
        let mut command = train(&run, "4", &["--batch-size", "24"]);
        // SAFETY: between fork and exec only a system call is made.
        unsafe {
            command.pre_exec(move || {
                libc::signal(libc::SIGHUP, hangup);
                Ok(())
            });
        }
        let mut child = command.spawn().unwrap();
        wait_for(&run.join("checkpoint.bpk"), &mut child);
        // SAFETY: the process is our own child and has not been waited for.
        assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGHUP) }, 0);
        assert!(child.wait().unwrap().success());
        state(&run).position().epoch
    });
    assert_eq!(nohup, 4, "it has come to its end");
    assert!(plain < 4, "without, it has stopped");
}

/// The arguments of a run on the excerpt, of 42 steps an epoch.
fn on_excerpt<'a>(data: &'a Path, run: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let common = [
        "train",
        "--device",
        "cpu",
        "--data",
        text(data),
        "--run",
        text(run),
    ];
    [&common[..], more].concat()
}

/// A branch draws the batches its trunk would have drawn: without a decay it is the trunk, bit for
/// bit; with one it parts from it, ends where the decay does, and survives being broken off.
#[test]
fn a_branch_is_its_trunk_until_its_step_size_falls() {
    let folder = tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let data = excerpt();
    let start = |name: &str, more: &[&str]| {
        let run = path(name);
        let mut command = command(&on_excerpt(&data, &run, more));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    };
    let finish = |name: &str, more: &[&str]| {
        assert!(start(name, more).wait().unwrap().success(), "{more:?}");
        state(&path(name))
    };
    let settings = [
        "--network",
        NETWORK,
        "--batch-size",
        "24",
        "--schedule",
        "cosine",
    ];
    let never = ["--epochs", "3", "--keep-checkpoints", "1,4"];
    let nowhere = path("nowhere");
    assert_refused(&on_excerpt(&data, &nowhere, &never), "--keep-checkpoints 4");
    let nothing = ["--decay-epochs", "0.0001"];
    assert_refused(
        &on_excerpt(&data, &nowhere, &nothing),
        "more --decay-epochs",
    );
    let keep = ["--epochs", "3", "--keep-checkpoints", "1,2"];
    let trunk = finish("trunk", &[&settings[..], &keep].concat());
    let from = path("trunk");
    let branch = ["--branch-from", text(&from), "--at-epoch", "1"];

    let same = finish(
        "same",
        &[&branch[..], &["--epochs", "3", "--decay-epochs", "0"]].concat(),
    );
    assert_eq!(bits(same.model()), bits(trunk.model()));
    assert_eq!(bits(same.averaged()), bits(trunk.averaged()));
    let losses = |trainer: &Trainer| -> Vec<u64> {
        let history = trainer.position().history.iter();
        history.map(|record| record.loss.to_bits()).collect()
    };
    assert_eq!(losses(&same), losses(&trunk));

    let decay = ["--decay-epochs", "1.5", "--decay", "cosine"];
    let decayed = finish("decayed", &[&branch[..], &decay].concat());
    assert_eq!(decayed.steps_taken(), 42 + 63);
    assert_eq!(
        decayed.config().learning_rate_at(42, 42),
        1e-3 * (43.0 / 500.0)
    );
    assert_eq!(decayed.config().learning_rate_at(105, 105), 0.0);
    let halfway = path("decayed/ema/images-00002504.bpk");
    let weights = decode(&std::fs::read(halfway).unwrap(), &kernels::cpu()).unwrap();
    assert_eq!(
        (weights.metadata.epoch, weights.metadata.images_seen),
        (2, 2504)
    );
    assert_ne!(losses(&decayed)[1], losses(&trunk)[1], "it has parted");
    assert_eq!(losses(&decayed)[0], losses(&trunk)[0]);
    for (there, name) in [
        (false, "ema/epoch-001.bpk"),
        (false, "samples-epoch-001-ddpm100.png"),
        (true, "ema/epoch-002.bpk"),
        (true, "samples-images-00002504-ddpm100.png"),
    ] {
        assert_eq!(path("decayed").join(name).exists(), there, "{name}");
    }
    let record = std::fs::read(path("decayed/run.json")).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
    assert_eq!(record["branched_after_epoch"], 1);
    assert_eq!(
        record["sessions"].as_array().unwrap().len(),
        2,
        "the trunk's and its own"
    );
    assert_eq!(record["config"]["schedule"], "cosine");

    // Broken off, and gone on with: nobody has to repeat which states it keeps.
    let fall = [&settings[..], &keep, &["--decay-epochs", "1"]].concat();
    let mut child = start("falling", &fall);
    wait_for(&path("falling/checkpoint.bpk"), &mut child);
    interrupt(&mut child);
    child.wait().unwrap();
    let falling = finish("falling", &["--resume"]);
    assert_eq!(falling.steps_taken(), 3 * 42);
    assert_eq!(falling.learning_rate(), 0.0);
    // A branch of such a run has a fall of its own, or none; but not after the fall.
    let falling = path("falling");
    let of_falling = ["--branch-from", text(&falling), "--at-epoch", "1"];
    let earlier = finish("earlier", &[&of_falling[..], &decay].concat());
    assert_eq!(bits(earlier.model()), bits(decayed.model()));
    let steady = finish("steady", &[&of_falling[..], &["--epochs", "3"]].concat());
    assert_eq!(bits(steady.model()), bits(trunk.model()));

    // Nor what the decay was.
    let mut child = start("broken", &[&branch[..], &decay].concat());
    wait_for(&path("broken/checkpoint.bpk"), &mut child);
    interrupt(&mut child);
    child.wait().unwrap();
    assert!(
        state(&path("broken")).steps_taken() < 105,
        "it was broken off"
    );
    let broken = finish("broken", &["--resume"]);
    assert_eq!(bits(broken.model()), bits(decayed.model()));
    assert_eq!(bits(broken.averaged()), bits(decayed.averaged()));

    let refused = |name: &str, more: &[&str], word: &str| {
        assert_refused(&on_excerpt(&data, &path(name), more), word);
    };
    refused(
        "new",
        &[&branch[..2], &["--at-epoch", "7"]].concat(),
        "after epoch 7; it has 1 to 3",
    );
    refused(
        "new",
        &[&branch[..], &["--seed", "5"]].concat(),
        "--seed 0, not 5",
    );
    refused(
        "new",
        &[&branch[..], &decay, &["--epochs", "9"]].concat(),
        "2504 images",
    );
    refused("new", &["--branch-from", text(&path("nowhere"))], "no run");
    refused("new", &["--at-epoch", "1"], "--branch-from");
    refused(
        "new",
        &["--epochs", "2", "--decay-epochs", "3"],
        "does not fit",
    );
    refused("new", &["--decay-epochs", "-1"], "0 to 999");
    refused("new", &[&of_falling[..2], &decay].concat(), "--at-epoch");
    refused(
        "new",
        &[&branch[..], &["--epochs", "1"]].concat(),
        "more --epochs",
    );
    let broken = path("broken");
    refused(
        "new",
        &["--branch-from", text(&broken), "--at-epoch", "1"],
        "no state after epoch 1; it has none",
    );
    assert!(!path("new").exists(), "nothing is begun");
    refused(
        "broken",
        &["--resume", "--decay", "linear", "--decay-epochs", "1.5"],
        "--decay cosine",
    );
    refused("broken", &["--resume", "--decay-epochs", "2"], "63, not 84");
    refused(
        "trunk",
        &["--resume", "--decay-epochs", "2"],
        "--decay-epochs",
    );
}

/// Exported weights are all that a stranger has of a run: a branch begins with them, with the run's
/// settings and losses, and with moments of its own.
#[test]
fn a_branch_of_exported_weights() {
    let folder = tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let data = excerpt();
    let trunk = path("trunk");
    let settings = ["--network", NETWORK, "--batch-size", "24", "--epochs", "2"];
    let settings = [&settings[..], &["--seed", "5"]].concat();
    let (first, second) = (path("weights/first.bpk"), path("weights/second.bpk"));
    for arguments in [
        &on_excerpt(&data, &trunk, &settings)[..],
        &[
            "export",
            text(&trunk),
            "--epoch",
            "1",
            "--out",
            text(&first),
        ],
        &["export", text(&trunk), "--out", text(&second)],
    ] {
        assert!(run(arguments).status.success(), "{arguments:?}");
    }
    let exported = path("weights");
    let exported = ["--branch-from", text(&exported), "--decay-epochs", "1"];
    let begin = |name: &str| run(&on_excerpt(&data, &path(name), &exported));
    let stderr = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let refused = begin("refused");
    assert!(
        stderr(&refused).contains("run.json"),
        "{}",
        stderr(&refused)
    );
    for file in ["run.json", "log.jsonl"] {
        std::fs::copy(trunk.join(file), path("weights").join(file)).unwrap();
    }
    let output = begin("branch");
    assert!(output.status.success(), "{}", stderr(&output));
    let (before, after) = (state(&trunk), state(&path("branch")));
    assert_eq!(after.steps_taken(), before.steps_taken() + 42);
    assert_eq!(after.position().history[..2], before.position().history);
    assert_eq!(after.position().epoch, 3);
    assert_eq!(after.config().seed, before.config().seed);
    assert_eq!(after.learning_rate(), 0.0, "the step size has fallen");
    // Trained on, not anew: fresh weights have a loss near 1.
    let losses: Vec<f64> = (after.position().history.iter())
        .map(|record| record.loss)
        .collect();
    assert!(losses[2] < losses[1] && losses[1] < losses[0], "{losses:?}");

    // The weights of another epoch, where they are asked for; or none.
    let earlier = |epoch, name: &str| {
        let more = [&exported[..], &["--at-epoch", epoch]].concat();
        run(&on_excerpt(&data, &path(name), &more))
    };
    assert!(earlier("1", "earlier").status.success());
    let position = state(&path("earlier")).position().clone();
    assert_eq!(position.epoch, 2);
    assert_eq!(position.history[0], before.position().history[0]);
    let refused = earlier("3", "refused");
    let there = "no state after epoch 3; it has 1 to 2";
    assert!(stderr(&refused).contains(there), "{}", stderr(&refused));

    // Other images than the weights were trained on.
    let others = data_folder();
    let refused = run(&on_excerpt(others.path(), &path("refused"), &exported));
    let word = "begun on other images";
    assert!(stderr(&refused).contains(word), "{}", stderr(&refused));

    // Weights from within an epoch, of more images than the record's epochs show.
    let within = path("within");
    let more = ["--network", NETWORK, "--max-images", "1100"];
    assert!(run(&on_excerpt(&data, &within, &more)).status.success());
    std::fs::copy(within.join("ema/images-00001128.bpk"), &second).unwrap();
    let refused = begin("refused");
    let word = "expected 1128 images";
    assert!(stderr(&refused).contains(word), "{}", stderr(&refused));

    // A record of another training beside the weights.
    let record = std::fs::read_to_string(trunk.join("run.json")).unwrap();
    let other = record.replace("linear", "cosine");
    assert_ne!(other, record);
    std::fs::write(path("weights/run.json"), other).unwrap();
    let refused = begin("refused");
    assert!(
        stderr(&refused).contains("(another network, schedule"),
        "{}",
        stderr(&refused)
    );
    assert!(!path("refused").exists(), "nothing is begun");
}

/// A run may end within an epoch, with all that an epoch's end leaves; and go on from there.
#[test]
fn a_run_of_so_many_images() {
    let folder = tempdir().unwrap();
    let data = excerpt();
    let (short, whole) = (folder.path().join("short"), folder.path().join("whole"));
    let settings = ["--network", "unshuffle=4,channels=16", "--prediction", "v"];
    let more = [
        "--max-images",
        "1100",
        "--ema-decay",
        "0.9",
        "--label-dropout",
        "0.5",
    ];
    let rate = ["--learning-rate", "0.002"];
    let arguments = [&settings[..], &rate, &more].concat();
    let output = run(&on_excerpt(&data, &short, &arguments));
    assert!(output.status.success(), "{output:?}");
    let stopped = state(&short);
    // 16 steps an epoch, and two more for the hundred.
    assert_eq!((stopped.steps_taken(), stopped.images_seen()), (18, 1128));
    let file = short.join("ema/images-00001128.bpk");
    let (out, again) = (folder.path().join("a.npy"), folder.path().join("b.npy"));
    let sample = [
        "sample",
        "--weights",
        text(&file),
        "--steps",
        "2",
        "--out",
        text(&out),
    ];
    assert!(run(&sample).status.success());
    // A run that hears only when it goes on that this is its end leaves the same.
    let left = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let over = on_excerpt(&data, &short, &["--resume", "--max-images", "1100"]);
    assert!(run(&over).status.success());
    assert_eq!(std::fs::read(&file).unwrap(), left);
    let info = String::from_utf8(run(&["info", text(&file)]).stdout).unwrap();
    for word in [
        "predicts v",
        "format version 2",
        "epoch 1, 1128 images",
        "decay 0.9",
    ] {
        assert!(info.contains(word), "{info}");
    }
    let config = stopped.config();
    assert_eq!((config.learning_rate, config.label_dropout), (0.002, 0.5));
    for (name, value, word) in [
        ("--prediction", "noise", "--prediction v, not noise"),
        ("--schedule", "cosine", "linear, not cosine"),
        ("--learning-rate", "0.1", "0.002, not 0.1"),
        ("--ema-decay", "0.99", "0.9, not 0.99"),
        ("--label-dropout", "0", "0.5, not 0"),
        (
            "--network",
            "channels=64-64",
            "not unshuffle=2,channels=64-64",
        ),
    ] {
        assert_refused(&on_excerpt(&data, &short, &["--resume", name, value]), word);
    }

    let output = run(&on_excerpt(&data, &short, &["--resume", "--epochs", "2"]));
    assert!(output.status.success(), "{output:?}");
    let arguments = [&settings[..], &rate, &more[2..], &["--epochs", "2"]].concat();
    let output = run(&on_excerpt(&data, &whole, &arguments));
    assert!(output.status.success(), "{output:?}");
    assert_eq!(bits(state(&short).model()), bits(state(&whole).model()));

    // What v says is not what the noise would be: the same tensors taken for noise paint otherwise.
    let weights = decode(&std::fs::read(&file).unwrap(), &kernels::cpu()).unwrap();
    let mut taken_for_noise = weights.metadata.clone();
    taken_for_noise.prediction = fashion_ddpm::Prediction::Noise;
    let bytes = fashion_ddpm::weights::encode(&weights.unet, &taken_for_noise, &kernels::cpu());
    let wrong = folder.path().join("wrong.bpk");
    std::fs::write(&wrong, bytes.unwrap()).unwrap();
    let sample = [
        "sample",
        "--weights",
        text(&wrong),
        "--steps",
        "2",
        "--out",
        text(&again),
    ];
    assert!(run(&sample).status.success());
    assert_ne!(std::fs::read(out).unwrap(), std::fs::read(again).unwrap());
}

/// Image i of a run is image i of the seed, whatever the count and the kind of file, and the last
/// frame of the film is the picture.
#[test]
fn samples_are_the_same_in_every_form() {
    let (folder, weights) = weights();
    let path = |name: &str| folder.path().join(name);
    let sample = |more: &[&str]| {
        let mut arguments = vec!["sample", "--weights", text(&weights), "--sampler", "dpm"];
        arguments.extend([
            "--steps",
            "4",
            "--garment",
            "bag",
            "--guidance",
            "2",
            "--seed",
            "9",
        ]);
        arguments.extend(more);
        let output = run(&arguments);
        assert!(output.status.success(), "{output:?}");
    };
    let (npy, png, film) = (path("a.npy"), path("a.png"), path("film"));
    // More than are computed at once.
    sample(&["--count", "66", "--device", "cpu", "--out", text(&npy)]);
    // What is left of a longer film does not go on after this one.
    std::fs::create_dir(&film).unwrap();
    for frame in ["frame-0005.png", "frame-0006.png"] {
        std::fs::write(film.join(frame), b"another film").unwrap();
    }
    sample(&["--count", "3", "--out", text(&png), "--frames", text(&film)]);
    let npy = std::fs::read(npy).unwrap();
    let pixels = &npy[npy.len() - 66 * PIXELS..];
    // The second batch, from the library: images 64 and 65 of the seed and no others.
    let device = kernels::cpu();
    let model = decode(&std::fs::read(&weights).unwrap(), &device).unwrap();
    let schedule = &model.diffusion.schedule;
    let settings = Walk {
        plan: Sampler::DpmSolverMultistep.plan(schedule, 4).unwrap(),
        garment: Some(Garment::Bag),
        guidance_scale: 2.0,
        seed: 9,
    };
    let mut walker = Walker::new(&model.unet, &model.diffusion, &device);
    let last = walker.walk(&settings, 64..66, |_, _| {
        ControlFlow::<Infallible>::Continue(())
    });
    let ControlFlow::Continue(last) = last;
    let last = to_pixels(&last);
    assert_eq!(pixels[64 * PIXELS..], last);
    assert_ne!(pixels[..2 * PIXELS], last);

    let grid = |path: &Path| image::open(path).unwrap().into_luma8();
    let picture = grid(&png);
    assert_eq!(picture.dimensions(), (56, 56));
    let mut largest = 0;
    for (x, y, pixel) in picture.enumerate_pixels() {
        let image = (y / 28 * 2 + x / 28) as usize;
        let place = (y % 28 * 28 + x % 28) as usize;
        let expected = if image < 3 {
            pixels[image * PIXELS + place]
        } else {
            0
        };
        largest = largest.max(pixel.0[0].abs_diff(expected));
    }
    assert!(largest <= 1, "off by {largest}");
    let frames = std::fs::read_dir(&film).unwrap().count();
    assert_eq!(frames, 5, "four steps have five states");
    assert_eq!(grid(&film.join("frame-0004.png")), picture);
    assert_ne!(grid(&film.join("frame-0000.png")), picture);

    let info = run(&["info", text(&weights)]);
    let info_text = String::from_utf8(info.stdout).unwrap();
    assert!(info.status.success());
    for word in [
        "129168 parameters",
        "T = 1000, linear",
        "epoch 1, 1000 images",
        "(correct)",
    ] {
        assert!(info_text.contains(word), "{info_text}");
    }

    let out = path("x.png");
    let refused = |more: &[&str], word: &str| {
        let common = ["sample", "--weights", text(&weights)];
        assert_refused(&[&common[..], more].concat(), word);
        assert!(!out.exists());
    };
    let out_text = text(&out);
    refused(&["--out", text(&path("x.gif"))], ".npy");
    refused(&["--out", out_text, "--count", "0"], "--count");
    refused(&["--out", out_text, "--count", "-1"], "--count");
    refused(&["--out", out_text, "--steps", "0"], "1 to 1000 steps");
    refused(&["--out", out_text, "--steps", "1001"], "1 to 1000 steps");
    refused(&["--out", out_text, "--guidance", "-1"], "--guidance");
    refused(&["--out", out_text, "--guidance", "nan"], "--guidance");
    refused(&["--out", out_text, "--guidance", "2"], "--garment");
    refused(&["--out", out_text, "--garment", "hat"], "ankle-boot");
    refused(&["--out", out_text, "--sampler", "euler"], "ddim");
    refused(&["--out", out_text, "--device", "gpu"], "auto, cuda");
    refused(&["--out", out_text, "--seed", "4294967296"], "--seed");
    refused(
        &["--out", out_text, "--count", "65", "--frames", text(&film)],
        "64",
    );
    refused(&[], "--out");

    let mut bytes = std::fs::read(&weights).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let damaged = path("damaged.bpk");
    std::fs::write(&damaged, &bytes).unwrap();
    assert_refused(&["info", text(&damaged)], "checksum");
    assert_refused(
        &["sample", "--weights", text(&damaged), "--out", out_text],
        "checksum",
    );
    assert_refused(&["info", text(&path("none.bpk"))], "cannot read");
}

/// A disk that is full, in the place of stdout.
#[cfg(target_os = "linux")]
#[test]
fn what_cannot_be_printed_is_an_error() {
    let (_folder, weights) = weights();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
    let mut command = command(&["info", text(&weights)]);
    let output = command.stdout(full.unwrap()).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with("error: cannot print: "), "{stderr}");
}

#[test]
fn what_cannot_be_trained_is_refused_in_one_line() {
    let folder = tempdir().unwrap();
    let run_folder = folder.path().join("run");
    let data = excerpt();
    let refused = |more: &[&str], word: &str| {
        let common = ["train", "--run", text(&run_folder)];
        assert_refused(&[&common[..], more].concat(), word);
        assert!(!run_folder.exists(), "nothing is begun");
    };
    let cpu = ["--device", "cpu", "--data", text(&data)];
    refused(&["--device", "gpu"], "auto, cuda");
    refused(&[&cpu[..], &["--epochs", "0"]].concat(), "--epochs");
    refused(&[&cpu[..], &["--batch-size", "0"]].concat(), "--batch-size");
    refused(&[&cpu[..], &["--resume"]].concat(), "no run");
    for (name, value, word) in [
        ("--network", "depth=3", "depth=3"),
        ("--schedule", "sqrt", "linear or cosine"),
        ("--prediction", "x_0", "noise or v"),
        ("--learning-rate", "0", "above 0"),
        ("--ema-decay", "1", "below 1"),
        ("--label-dropout", "2", "from 0 to 1"),
        ("--max-images", "0", "--max-images"),
    ] {
        refused(&[&cpu[..], &[name, value]].concat(), word);
    }
    refused(
        &["--device", "cpu", "--data", text(folder.path())],
        "is missing",
    );
    assert_refused(&[], "expected a command");
    assert_refused(&["evaluat"], "evaluat");
    assert_refused(
        &["export", text(&run_folder), "--out", "x.bpk"],
        "no finished epoch",
    );
    for help in [&["--help"][..], &["train", "--help"], &["--version"]] {
        assert!(run(help).status.success());
    }
}

/// A folder with the four files: 700 images of the excerpt as training images, 300 as test images.
fn data_folder() -> TempDir {
    let data = Dataset::read(&excerpt(), Split::Train).unwrap();
    let folder = tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
        gz.write_all(bytes).unwrap();
        std::fs::write(folder.path().join(name), gz.finish().unwrap()).unwrap();
    };
    for (prefix, range) in [("train", 0..700), ("t10k", 700..1000)] {
        let count = (range.len() as u32).to_be_bytes();
        let mut images = [&[0, 0, 8, 3][..], &count, &[0, 0, 0, 28, 0, 0, 0, 28]].concat();
        let mut labels = [&[0, 0, 8, 1][..], &count].concat();
        for i in range {
            images.extend(data.pixels(i));
            labels.push(data.label(i).label() as u8);
        }
        write(&format!("{prefix}-images-idx3-ubyte.gz"), &images);
        write(&format!("{prefix}-labels-idx1-ubyte.gz"), &labels);
    }
    folder
}

/// Samples and images from elsewhere go through the same judge; the figures stand in the table, in
/// the file, and, where asked for, in the index.
#[test]
fn samples_and_other_images_are_judged_alike() {
    let (folder, weights) = weights();
    let data = data_folder();
    let path = |name: &str| folder.path().join(name);
    let (out, again) = (path("figures"), path("again"));
    let evaluate = |subject: &[&str], out: &Path| {
        let common = ["evaluate", "--data", text(data.path()), "--out", text(out)];
        let output = run(&[&common, subject].concat());
        assert!(output.status.success(), "{output:?}");
        let json = std::fs::read(out.join("evaluation.json")).unwrap();
        let report: Report = serde_json::from_slice(&json).unwrap();
        (report, String::from_utf8(output.stdout).unwrap())
    };
    let walk = [
        "--sampler",
        "ddim",
        "--eta",
        "1",
        "--steps",
        "3",
        "--device",
        "cpu",
    ];
    let subject = [
        &["--weights", text(&weights), "--record", "--count", "43"],
        &walk[..],
    ]
    .concat();
    let (report, table) = evaluate(&[&subject[..], &["--unconditional", "20"]].concat(), &out);
    let counts: Vec<usize> = report.samples.iter().map(|row| row.count).collect();
    assert_eq!(counts, [43, 20]);
    assert_eq!(report.beside.len(), 6);
    assert!(report.beside[0].frechet_train.value < report.samples[0].frechet_train.value);
    for row in report.samples.iter().chain(&report.beside) {
        assert!(table.contains(&row.name));
        let [low, high] = row.frechet_train.interval;
        assert!(low < row.frechet_train.value && row.frechet_train.value < high);
    }
    let dimensions = |name: &str| image::image_dimensions(out.join(name)).unwrap();
    assert_eq!(dimensions("grid.png"), (280, 140));
    assert_eq!(dimensions("closest.png"), (8 * 28, 2 * 28));

    let index = std::fs::read(weights.with_file_name("index.json")).unwrap();
    let index: Index = serde_json::from_slice(&index).unwrap();
    let recorded = &index.models[0].evaluation["ddim-3-eta-1.0"];
    let figure = recorded["frechet_train"]["value"].as_f64().unwrap();
    assert_eq!(figure, report.samples[0].frechet_train.value);

    // Images of which nothing is known.
    let npy = path("images.npy");
    let ours: Vec<u8> = {
        let data = Dataset::read(data.path(), Split::Test).unwrap();
        (0..40).flat_map(|i| data.pixels(i)).copied().collect()
    };
    std::fs::write(&npy, trainer::picture::npy(&ours)).unwrap();
    let (given, _) = evaluate(&["--images", text(&npy)], &again);
    assert_eq!(given.samples[0].count, 40);
    assert!(given.samples[0].agreement.is_none());
    // These are the first 40 test images, which stand beside the figures as well.
    assert_eq!(
        given.samples[0].frechet_train,
        given.beside[0].frechet_train
    );
    assert_eq!(given.samples[0].precision, given.beside[0].precision);
}

/// A weights file with its metadata and tensors (name and bytes) changed, and the checksum that
/// belongs to what became of it.
fn repacked(file: &[u8], change: impl Fn(&mut String, (&str, &mut Vec<u8>))) -> Vec<u8> {
    let reader = Reader::from_bytes(Bytes::from_bytes_vec(file.to_vec())).unwrap();
    let strings = reader.metadata().clone();
    let mut metadata = strings["metadata"].clone();
    let tensors = reader.into_tensors().unwrap().into_iter().map(|tensor| {
        let (name, dtype, shape, _, bytes) = tensor.into_parts().unwrap();
        let mut bytes = bytes.to_vec();
        change(&mut metadata, (&name, &mut bytes));
        let bytes = Bytes::from_bytes_vec(bytes);
        burn_pack::Tensor::new(name, dtype, shape, None, bytes)
    });
    let tensors: Vec<burn_pack::Tensor> = tensors.collect();
    let sha256 = checksum(&metadata, &tensors).unwrap();
    let bytes = Writer::new(tensors)
        .with_metadata("format_version", &strings["format_version"])
        .with_metadata("metadata", &metadata)
        .with_metadata("sha256", &sha256)
        .into_bytes();
    bytes.unwrap().to_vec()
}

#[test]
fn what_cannot_be_judged_is_refused() {
    let (folder, weights) = weights();
    let data = data_folder();
    let path = |name: &str| folder.path().join(name);
    let out = path("out");
    let refused = |more: &[&str], word: &str| {
        let common = ["evaluate", "--data", text(data.path()), "--out", text(&out)];
        assert_refused(&[&common, more].concat(), word);
        let figures = out.join("evaluation.json");
        assert!(!figures.exists(), "{more:?} left figures");
    };
    let of_ours = ["--weights", text(&weights)];
    let with = |more: &[&'static str]| [&of_ours[..], more].concat();
    refused(&with(&["--count", "19"]), "20 to 10000");
    refused(
        &with(&["--count", "20", "--unconditional", "3"]),
        "20 to 10000",
    );
    refused(&with(&["--eta", "0.5"]), "--sampler ddim");
    refused(&with(&["--count", "20", "--steps", "0"]), "1 to 1000");
    refused(&with(&["--guidance", "-1"]), "--guidance");
    // The index says nothing of guidance: such figures would stand in the place of others.
    refused(
        &with(&["--guidance", "2", "--record"]),
        "samples without guidance",
    );
    assert!(!out.exists(), "nothing is begun");
    // What would stand in the way of the last file is found before the first image.
    let in_the_way = path("in-the-way");
    std::fs::create_dir_all(in_the_way.join("grid.png")).unwrap();
    let taken = ["--out", text(&in_the_way)];
    let common = ["evaluate", "--data", text(data.path())];
    assert_refused(&[&common[..], &taken, &of_ours, &WALK].concat(), "grid.png");
    refused(&["--images", "images.npy", "--seed", "1"], "--seed");
    refused(&["--weights", text(&path("none.bpk"))], "none.bpk");
    // A judge is a burnpack file too, but of another network.
    let judge = Path::new(env!("CARGO_MANIFEST_DIR")).join("judge/judge.bpk");
    refused(&["--weights", text(&judge)], "judge.bpk");
    // Files of ours, whole and with a true checksum, that describe another network than they hold,
    // or hold no numbers.
    let other = path("other.bpk");
    let bytes = std::fs::read(&weights).unwrap();
    let changed = repacked(&bytes, |metadata, _| {
        *metadata = metadata.replace(r#""channels":[16]"#, r#""channels":[32]"#);
    });
    std::fs::write(&other, changed).unwrap();
    let on_the_cpu = ["--count", "20", "--device", "cpu"];
    refused(
        &[&["--weights", text(&other)][..], &on_the_cpu].concat(),
        "expected the tensors of the network",
    );
    let no_numbers = path("nan.bpk");
    let changed = repacked(&bytes, |_, tensor| {
        if tensor.0 == "head.bias" {
            tensor.1.fill(0x7e);
        }
    });
    std::fs::write(&no_numbers, changed).unwrap();
    refused(
        &[&["--weights", text(&no_numbers)][..], &WALK].concat(),
        "are no numbers",
    );
    let copy = path("unlisted.bpk");
    std::fs::copy(&weights, &copy).unwrap();
    refused(
        &["--weights", text(&copy), "--record", "--count", "20"],
        "index.json",
    );
    let empty = path("empty");
    std::fs::create_dir(&empty).unwrap();
    refused(&["--images", text(&empty)], "no PNG file");
    refused(&["--images", text(&weights)], "another kind");
    let taken = path("taken");
    std::fs::write(&taken, "a file").unwrap();
    let subject = [
        "evaluate",
        "--data",
        text(data.path()),
        "--out",
        text(&taken),
    ];
    assert_refused(&[&subject, &of_ours[..], &WALK].concat(), "taken");
    // The excerpt's folder has no test images.
    let npy = path("images.npy");
    std::fs::write(&npy, trainer::picture::npy(&[0; 30 * PIXELS])).unwrap();
    let (npy, excerpt) = (text(&npy), excerpt());
    assert_refused(
        &[
            "evaluate",
            "--images",
            npy,
            "--data",
            text(&excerpt),
            "--out",
            text(&out),
        ],
        "t10k",
    );
}

/// What networks cost, as a table and as JSON; and both kinds of figures as rows in Markdown.
#[test]
fn networks_are_measured_and_tabulated() {
    let (folder, weights) = weights();
    let data = data_folder();
    let path = |name: &str| folder.path().join(name);
    let measured = path("networks.json");
    let names = [
        "unshuffle=4,channels=16,blocks=1,attention=none",
        "unshuffle=4,channels=8",
    ];
    let quick = [
        "--rounds",
        "2",
        "--seconds",
        "0.01",
        "--batch-size",
        "4",
        "--device",
        "cpu",
    ];
    let common = ["--data", text(data.path()), "--out", text(&measured)];
    let output = run(&[&["network"][..], &names, &quick, &common].concat());
    assert!(output.status.success(), "{output:?}");
    let table = String::from_utf8(output.stdout).unwrap();
    let json = std::fs::read(&measured).unwrap();
    let figures: Vec<NetworkFigures> = serde_json::from_slice(&json).unwrap();
    assert_eq!(figures.len(), 2);
    assert_eq!(figures[0].name, names[0]);
    assert_eq!(figures[0].parameters, 129_168);
    let there = std::fs::metadata(&weights).unwrap().len();
    // The words about the data set are of different length.
    assert!(
        figures[0].bytes.abs_diff(there as usize) < 300,
        "{}",
        figures[0].bytes
    );
    for network in &figures {
        assert!(table.contains(&network.name) && network.multiplications > 100_000);
        for speed in [network.forward, network.training] {
            assert!(0.0 < speed.least && speed.least <= speed.median);
            assert!(speed.median <= speed.most && speed.most.is_finite());
        }
    }

    let out = path("figures");
    let common = [
        "--unconditional",
        "0",
        "--data",
        text(data.path()),
        "--out",
        text(&out),
    ];
    let subject = ["evaluate", "--weights", text(&weights)];
    let output = run(&[&subject[..], &WALK, &common].concat());
    assert!(output.status.success(), "{output:?}");
    let evaluation = out.join("evaluation.json");
    let rows = |arguments: &[&str]| {
        let output = run(&[&["table"][..], arguments].concat());
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let mut pipes = text.lines().map(|line| line.matches('|').count());
        let columns = pipes.next();
        assert!(pipes.all(|n| Some(n) == columns), "{text}");
        text
    };
    let table = rows(&[text(&evaluation)]);
    assert!(
        table.contains("epoch 1, ddim 2 eta 0.0: samples | 20 |"),
        "{table}"
    );
    assert!(table.contains("| mirrored | 20 |"), "{table}");
    assert_eq!(table.lines().count(), 2 + 1 + 6);
    let table = rows(&["--networks", text(&measured), text(&evaluation)]);
    let row = table.lines().find(|line| line.contains(names[0])).unwrap();
    assert!(
        row.contains("| 129168 |") && row.contains("ddim 2"),
        "{row}"
    );
    assert!(
        table
            .lines()
            .last()
            .unwrap()
            .ends_with("| - | - | - | - | - | - |"),
        "{table}"
    );

    assert_refused(&["table"], "--networks");
    assert_refused(&["table", text(&measured)], "evaluation.json");
    assert_refused(
        &["table", "--networks", text(&evaluation)],
        "trainer network",
    );
    assert_refused(&["network", "depth=3"], "depth=3");
    assert_refused(&["network", "--twin", "3"], "--out");
    assert_refused(&["network", "--seconds", "-1"], "0 to 3600");
}

#[test]
fn a_judge_is_trained_from_the_command_line() {
    let data = data_folder();
    let file = data.path().join("judge.bpk");
    let arguments = [
        "train-judge",
        "--epochs",
        "1",
        "--data",
        text(data.path()),
        "--out",
        text(&file),
    ];
    let output = run(&arguments);
    assert!(output.status.success(), "{output:?}");
    let judge = trainer::judge::decode(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(judge.card.training_images, 630);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.contains(&judge.sha256) && said.contains("300 test images"),
        "{said}"
    );
}

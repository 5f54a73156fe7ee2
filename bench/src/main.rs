//! `zring-bench stub MNT TRANSPORT`: see `stub`.
mod stub;
use zring::engine::start::{Choice, start};
use zring::kernel::mount::MountSpec;
use zring::kernel::port::TransportKind;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let kind = match args[3].as_str() {
        "uring" => TransportKind::Uring,
        "dev" => TransportKind::Dev,
        _ => TransportKind::Plain,
    };
    let spec = MountSpec {
        source: "stub".into(),
        mountpoint: args[2].clone().into(),
        subtype: "zstub".into(),
        allow_other: false,
        noexec: false,
    };
    let r = start(spec, Choice::Force(kind), |_, _, seats| {
        Ok(seats.iter().map(|_| stub::Stub).collect())
    });
    match r {
        Ok(r) => r.join().unwrap(),
        Err(e) => {
            eprintln!("{e}");
            std::process::exit(1)
        }
    }
}

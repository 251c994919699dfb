//! What the launcher says in the environment: nothing before `MPI_Init` reads it.

use std::env;

/// The variables in which launchers tell a process its rank.
const RANK_VARIABLES: &[&str] = &[
    "OMPI_COMM_WORLD_RANK",
    "PMIX_RANK",
    "PMI_RANK",
    "SLURM_PROCID",
];
/// Those in which they tell how many ranks there are.
const SIZE_VARIABLES: &[&str] = &["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS"];
/// The descriptor through which hydra talks to the process.
const HYDRA_DESCRIPTOR: &str = "PMI_FD";

/// Whether a launcher started this process as one of several ranks. Alone, there is nobody to wire
/// up with.
pub fn is_one_of_several() -> bool {
    let number = |names: &[&str]| {
        names
            .iter()
            .find_map(|name| env::var(name).ok()?.parse().ok())
    };
    let (rank, size): (Option<u32>, Option<u32>) = (number(RANK_VARIABLES), number(SIZE_VARIABLES));
    // Without a size (PMIx) the wire-up tells it.
    rank.is_some() && size != Some(1)
}

/// Closes what connects this process itself with the launcher; the wire-up's child had its copy.
pub fn let_go() {
    let descriptor = env::var(HYDRA_DESCRIPTOR)
        .ok()
        .and_then(|text| text.parse().ok());
    if let Some(descriptor) = descriptor {
        // Not open is as good as closed.
        let _ = nix::unistd::close(descriptor);
    }
}

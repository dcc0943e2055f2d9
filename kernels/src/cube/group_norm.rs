//! Group normalisation and SiLU on the GPU: a team of threads for each group of channels of each
//! image. On software a team is one thread, and waits for nobody.

use cubecl::prelude::*;

/// Threads of a team on a GPU.
const TEAM: usize = 128;

/// The lengths of one normalisation. None is a constant: all of a network's are two kernels, to be
/// compiled once each.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub(super) struct Lengths {
    /// Channels of the two inputs, which are normalised as one; 0 where there is no second.
    first: u32,
    second: u32,
    /// Values of one channel.
    plane: u32,
    /// Channels of a group.
    group: u32,
}

/// How a normalisation is cut into threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Cut {
    /// Teams that are launched together, and threads of each.
    pub(super) teams: usize,
    pub(super) team: usize,
}

impl Cut {
    pub(super) fn of(groups: usize, alone: bool) -> Self {
        // Four threads are what a CPU does at once.
        let teams = [4, 2, 1].into_iter().find(|n| groups.is_multiple_of(*n));
        match teams {
            Some(teams) if alone => Self { teams, team: 1 },
            _ => Self {
                teams: 1,
                team: TEAM,
            },
        }
    }
}

/// See [`crate::concat_group_norm_silu`]; SiLU follows where `activate` is not 0.
// One `if` is for the host, one for the device: they do not collapse.
#[allow(clippy::too_many_arguments, clippy::collapsible_if)]
#[cube(launch_unchecked)]
pub(super) fn group_norm_silu(
    a: &[f32],
    b: ComptimeOption<&[f32]>,
    gamma: &[f32],
    beta: &[f32],
    y: &mut [f32],
    epsilon: f32,
    lengths: Lengths,
    activate: u32,
    #[comptime] cut: Cut,
) {
    let first = lengths.first as usize;
    let second = lengths.second as usize;
    let plane = lengths.plane as usize;
    let channels = lengths.group as usize;
    let size = channels * plane;
    let team = comptime!(cut.team);
    let mut unit = UNIT_POS as usize;
    let mut group = CUBE_POS_X as usize;
    if comptime!(cut.team == 1) {
        group = group * comptime!(cut.teams) + unit;
        unit = 0usize;
    }
    let image = CUBE_POS_Y as usize;
    let channel = group * channels;

    // In memory the values of a group follow each other, in `a` and in `b` each.
    let from_a = (image * first + channel) * plane;
    let mut from_b = 0usize;
    let mut in_a = size;
    if second > 0 {
        // Values of the group that stand in `a`: none, some or all.
        in_a = 0usize.runtime();
        if channel < first {
            in_a = clamp_max((first - channel) * plane, size);
        }
        from_b = image * (second * plane);
        if channel > first {
            from_b += (channel - first) * plane;
        }
    }

    let mut sum = 0.0f32;
    let mut at = unit;
    while at < size {
        let mut found = 0.0f32;
        if at < in_a {
            found = a[from_a + at];
        }
        #[comptime]
        if let ComptimeOption::Some(b) = b {
            if at >= in_a {
                found = b[from_b + at - in_a];
            }
        }
        sum += found;
        at += team;
    }
    let mean = total(sum, unit, cut) / size as f32;
    let mut squares = 0.0f32;
    let mut at = unit;
    while at < size {
        let mut found = 0.0f32;
        if at < in_a {
            found = a[from_a + at];
        }
        #[comptime]
        if let ComptimeOption::Some(b) = b {
            if at >= in_a {
                found = b[from_b + at - in_a];
            }
        }
        let centred = found - mean;
        squares += centred * centred;
        at += team;
    }
    let variance = total(squares, unit, cut) / size as f32;
    let r = 1.0f32 / (variance + epsilon).sqrt();
    let to = (image * (first + second) + channel) * plane;
    for c in 0..channels {
        let scale = r * gamma[channel + c];
        let offset = beta[channel + c] - mean * scale;
        let mut place = unit;
        while place < plane {
            let at = c * plane + place;
            let mut found = 0.0f32;
            if at < in_a {
                found = a[from_a + at];
            }
            #[comptime]
            if let ComptimeOption::Some(b) = b {
                if at >= in_a {
                    found = b[from_b + at - in_a];
                }
            }
            let mut u = found * scale + offset;
            if activate != 0 {
                u = u / (1.0f32 + (0.0f32 - u).exp());
            }
            y[to + at] = u;
            place += team;
        }
    }
}

/// The sum of what every thread of a team found, known to all.
#[cube]
fn total(found: f32, unit: usize, #[comptime] cut: Cut) -> f32 {
    let mut sum = found;
    if comptime!(cut.team > 1) {
        let mut shared = Shared::<[f32]>::new_slice(comptime!(cut.team));
        // The one of the total before may be in the same place.
        sync_cube();
        shared[unit] = found;
        #[unroll]
        for round in 0..comptime!(cut.team.ilog2() as usize) {
            let half = comptime!(cut.team) >> (round + 1);
            sync_cube();
            if unit < half {
                let other = shared[unit + half];
                shared[unit] += other;
            }
        }
        sync_cube();
        sum = shared[0];
    }
    sum
}

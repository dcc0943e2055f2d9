//! Two clocks: frames are computed as fast as the device allows, and shown one per refresh of the
//! display.
//!
//! A run of T steps has T + 1 stops: frame 0 is the noise, stop T the finished garment. [`Player`]
//! knows which stops there are and which one is shown; it touches neither the engine nor the screen.

/// Where a run stands, as far as the controls are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// There has been none.
    Idle,
    /// Frames come, or are being shown.
    Running,
    /// Both clocks stand.
    Paused,
    /// What there is can be looked at.
    Over,
}

/// How fast frames are shown.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Speed {
    /// Frames per refresh of the display; up to 1, each is painted.
    Frames(f64),
    /// Always the newest one.
    AsComputed,
}

/// The two clocks.
#[derive(Debug)]
pub struct Player {
    phase: Phase,
    speed: Speed,
    /// T of this run: its number of steps.
    steps: usize,
    /// Frames that have been computed.
    computed: usize,
    /// Whether the garment has been, too.
    finished: bool,
    /// Whether nothing more will be: finished or stopped.
    ended: bool,
    /// The stop that is shown.
    shown: Option<usize>,
    /// Whether showing goes on, or stays where somebody moved it.
    following: bool,
    /// Fractions of a frame that are due.
    due: f64,
    /// The stop that `Next step` waits for.
    wanted: Option<usize>,
    /// Steps asked of the paused engine that have not come yet.
    asked: usize,
    progress: usize,
}

impl Default for Player {
    fn default() -> Self {
        Self {
            phase: Phase::Idle,
            speed: Speed::Frames(1.0),
            steps: 0,
            computed: 0,
            finished: false,
            ended: false,
            shown: None,
            following: true,
            due: 0.0,
            wanted: None,
            asked: 0,
            progress: 0,
        }
    }
}

impl Player {
    /// Begins a run of so many steps.
    pub fn begin(&mut self, steps: usize) {
        *self = Self {
            phase: Phase::Running,
            speed: self.speed,
            steps,
            ..Self::default()
        };
    }

    /// How fast frames are to be shown from now on.
    pub fn set_speed(&mut self, speed: Speed) {
        self.speed = speed;
        self.due = 0.0;
    }

    /// Frames shown per refresh of the display, where that is what limits.
    pub fn frames_per_refresh(&self) -> Option<f64> {
        match self.speed {
            Speed::Frames(frames) => Some(frames),
            Speed::AsComputed => None,
        }
    }

    /// Where the run stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Number of steps of the run.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// Frames that have been computed.
    pub fn computed(&self) -> usize {
        self.computed
    }

    /// Whether nothing more is going to be computed.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether showing follows computing.
    pub fn is_following(&self) -> bool {
        self.following
    }

    /// The stop that is shown.
    pub fn shown(&self) -> Option<usize> {
        self.shown
    }

    /// Steps that have been shown to be taken; of a run that is not followed, those computed.
    pub fn progress(&self) -> usize {
        self.progress
    }

    /// The newest stop there is.
    pub fn newest(&self) -> Option<usize> {
        if self.finished {
            Some(self.steps)
        } else {
            self.computed.checked_sub(1)
        }
    }

    /// More frames have been computed.
    pub fn add_frames(&mut self, count: usize) {
        self.computed += count;
        self.asked = self.asked.saturating_sub(count);
        self.arrived();
    }

    /// The garment has been computed.
    pub fn finish(&mut self) {
        self.finished = true;
        self.ended = true;
        self.arrived();
        if self.phase == Phase::Running && !self.following {
            self.phase = Phase::Over;
        }
    }

    fn arrived(&mut self) {
        if let Some(wanted) = self.wanted
            && Some(wanted) <= self.newest()
        {
            self.wanted = None;
            self.show(wanted);
        }
        if self.phase == Phase::Running && !self.following {
            self.progress = self.progress.max(self.newest().unwrap_or_default());
        }
    }

    fn show(&mut self, stop: usize) {
        self.shown = Some(stop);
        self.progress = self.progress.max(stop);
        if self.ended && Some(stop) == self.newest() && self.following {
            self.phase = Phase::Over;
        }
    }

    /// The display is refreshed: shows the next frames that are due.
    pub fn tick(&mut self) {
        let (Phase::Running, true, Some(newest)) = (self.phase, self.following, self.newest())
        else {
            return;
        };
        let next = match (self.speed, self.shown) {
            (Speed::AsComputed, _) => newest,
            (_, None) => 0,
            (Speed::Frames(speed), Some(shown)) => {
                // What was not there when it was due is not made up for by a leap.
                self.due = (self.due + speed).min(speed.max(1.0) + 0.999);
                let frames = self.due.floor();
                self.due -= frames;
                (shown + frames as usize).min(newest)
            }
        };
        self.show(next);
    }

    /// Both clocks stand.
    pub fn pause(&mut self) {
        if self.phase == Phase::Running {
            self.phase = Phase::Paused;
        }
    }

    /// Both clocks go on; showing does from what is shown.
    pub fn resume(&mut self) {
        if self.phase == Phase::Paused {
            self.phase = Phase::Running;
            self.following = true;
            self.wanted = None;
            self.asked = 0;
        }
    }

    /// Shows one stop more. `true` where the engine has to compute it first.
    pub fn next_step(&mut self) -> bool {
        if self.phase != Phase::Paused {
            return false;
        }
        self.following = true;
        let now = self.wanted.or(self.shown);
        let next = now.map_or(0, |now| now + 1).min(self.steps);
        if Some(next) <= self.newest() {
            self.show(next);
            return false;
        }
        if self.ended {
            return false;
        }
        self.wanted = Some(next);
        let ask = self.computed + self.asked < (next + 1).min(self.steps);
        self.asked += usize::from(ask);
        ask
    }

    /// No more.
    pub fn stop(&mut self) {
        self.wanted = None;
        self.ended = true;
        self.phase = match self.newest() {
            None => Phase::Idle,
            Some(newest) => {
                self.shown.get_or_insert(newest);
                Phase::Over
            }
        };
    }

    /// Shows this stop, or the newest before it. During a run, showing then stays there, unless it
    /// is the newest.
    pub fn scrub(&mut self, stop: usize) {
        let Some(newest) = self.newest() else { return };
        let stop = stop.min(newest);
        self.wanted = None;
        self.following = stop == newest;
        if self.phase == Phase::Running {
            self.show(stop);
            if self.ended {
                self.phase = Phase::Over;
            }
        } else {
            self.shown = Some(stop);
        }
    }

    /// Shows everything there is once more, from what is shown, or from the noise if that is the
    /// last.
    pub fn replay(&mut self) {
        if self.phase != Phase::Over {
            return;
        }
        if self.shown == self.newest() {
            self.shown = Some(0);
        }
        self.progress = self.shown.unwrap_or_default();
        self.following = true;
        self.due = 0.0;
        self.phase = Phase::Running;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(player: &mut Player, count: usize) -> Vec<Option<usize>> {
        (0..count)
            .map(|_| {
                player.tick();
                player.shown()
            })
            .collect()
    }

    #[test]
    fn every_frame_is_shown_in_order_however_fast_they_come() {
        let mut player = Player::default();
        player.begin(5);
        assert_eq!(ticks(&mut player, 2), [None, None]);
        player.add_frames(5);
        player.finish();
        assert_eq!(player.phase(), Phase::Running);
        let shown = ticks(&mut player, 6);
        assert_eq!(shown, [0, 1, 2, 3, 4, 5].map(Some));
        assert_eq!((player.phase(), player.progress()), (Phase::Over, 5));
    }

    #[test]
    fn showing_waits_for_computing_and_makes_no_leap_afterwards() {
        let mut player = Player::default();
        player.begin(100);
        player.add_frames(2);
        assert_eq!(ticks(&mut player, 4), [0, 1, 1, 1].map(Some));
        player.add_frames(50);
        assert_eq!(ticks(&mut player, 2), [2, 3].map(Some));
    }

    #[test]
    fn speeds() {
        let show = |speed| {
            let mut player = Player::default();
            player.set_speed(speed);
            player.begin(100);
            player.add_frames(100);
            ticks(&mut player, 5)
        };
        assert_eq!(show(Speed::Frames(0.5)), [0, 0, 1, 1, 2].map(Some));
        assert_eq!(show(Speed::Frames(2.0)), [0, 2, 4, 6, 8].map(Some));
        assert_eq!(show(Speed::AsComputed), [99; 5].map(Some));
    }

    #[test]
    fn a_pause_stops_showing_though_frames_come_in_late() {
        let mut player = Player::default();
        player.begin(10);
        player.add_frames(3);
        ticks(&mut player, 2);
        player.pause();
        player.add_frames(2);
        assert_eq!(ticks(&mut player, 3), [1, 1, 1].map(Some));
        // What is there is shown without asking; then the engine is asked, once for each.
        assert!(!player.next_step() && !player.next_step() && !player.next_step());
        assert_eq!(player.shown(), Some(4));
        assert!(player.next_step() && player.next_step());
        assert_eq!(player.shown(), Some(4));
        player.add_frames(1);
        assert_eq!(player.shown(), Some(4), "two were wanted");
        player.add_frames(1);
        assert_eq!(player.shown(), Some(6));
        player.resume();
        player.add_frames(3);
        player.finish();
        assert_eq!(ticks(&mut player, 5), [7, 8, 9, 10, 10].map(Some));
    }

    #[test]
    fn the_last_steps_one_by_one() {
        let mut player = Player::default();
        player.begin(2);
        player.pause();
        assert!(player.next_step());
        player.add_frames(1);
        assert_eq!(player.shown(), Some(0));
        assert!(player.next_step());
        player.add_frames(1);
        player.finish();
        assert_eq!((player.shown(), player.phase()), (Some(1), Phase::Paused));
        assert!(!player.next_step());
        assert_eq!((player.shown(), player.phase()), (Some(2), Phase::Over));
    }

    #[test]
    fn scrubbing_during_a_run_stays_until_the_end_is_asked_for() {
        let mut player = Player::default();
        player.begin(10);
        player.add_frames(6);
        ticks(&mut player, 6);
        player.scrub(2);
        player.add_frames(1);
        assert_eq!(ticks(&mut player, 2), [2, 2].map(Some));
        assert_eq!((player.progress(), player.is_following()), (6, false));
        // Beyond what there is: the newest, and following it.
        player.scrub(10);
        assert_eq!(player.shown(), Some(6));
        player.add_frames(1);
        assert_eq!(ticks(&mut player, 1), [Some(7)]);
        player.scrub(0);
        player.add_frames(2);
        player.finish();
        assert_eq!((player.phase(), player.shown()), (Phase::Over, Some(0)));
        player.scrub(10);
        assert_eq!(player.shown(), Some(10));
    }

    #[test]
    fn a_pause_elsewhere_resumes_from_there() {
        let mut player = Player::default();
        player.begin(10);
        player.add_frames(6);
        ticks(&mut player, 6);
        player.pause();
        player.scrub(2);
        player.resume();
        assert_eq!(ticks(&mut player, 2), [3, 4].map(Some));
    }

    #[test]
    fn stop_keeps_what_there_is_and_replay_shows_it_again() {
        let mut player = Player::default();
        player.begin(10);
        player.stop();
        assert_eq!(player.phase(), Phase::Idle);
        player.begin(10);
        player.add_frames(3);
        player.stop();
        assert_eq!((player.phase(), player.shown()), (Phase::Over, Some(2)));
        player.replay();
        ticks(&mut player, 5);
        assert_eq!((player.phase(), player.shown()), (Phase::Over, Some(2)));
    }
}

//! A batch of actions: data on disk, intents on disk, names changed, names on disk, rows on disk. One sync each,
//! however many actions there are; and while batches follow each other, the names of one are put on disk together
//! with the data of the next, and its rows together with the next one's intents.

use crate::model::{Attrs, Entry, Generation, Name, NodeId, Problem, RelPath, Time};
use crate::protocol::{Apply, Change, Displaced, Expect, Kept, Outcome, Step};

use super::Replica;
use super::archive::{Archive, Intent, IntentStep, Signature};
use super::disk::{Disk, Own};
use super::error::{At, ReplicaError, problem};
use super::examine::{Examined, How};
use super::place::{generation_of, rename};
use super::stage::Staged;
use super::touched::Touched;

/// One action, with its new object if it has one.
pub struct Job<F> {
    pub generation: Generation,
    pub apply: Apply,
    pub staged: Option<Staged<F>>,
}

/// How an action ended, and what must be reported before the brain hears of it.
pub struct Finished {
    pub generation: Generation,
    pub reports: Vec<Change>,
    pub outcome: Outcome,
}

/// A batch between its intents and its rows on disk.
pub(crate) struct Unfinished<Dir, File> {
    /// Data and intents are on disk: the names may change.
    prepared: Vec<Job<File>>,
    /// The names that changed are not on disk yet; before they are nothing may be committed.
    pub touched: Touched<Dir>,
    /// Their intents are open.
    unsettled: Vec<Generation>,
    /// Objects of the stage that were not placed. They are thrown away once their intents are settled: while an intent is
    /// open, an object that is gone from the stage has been placed.
    pub unplaced: Vec<Name>,
    /// Not to be told before all is on disk.
    finished: Vec<Finished>,
}

impl<Dir, File> Default for Unfinished<Dir, File> {
    fn default() -> Self {
        Unfinished {
            prepared: Vec::new(),
            touched: Touched::default(),
            unsettled: Vec::new(),
            unplaced: Vec::new(),
            finished: Vec::new(),
        }
    }
}

/// How placing went.
pub(crate) enum Placed {
    /// The row's entry, and what became of the object that made way.
    Done(Option<Entry>, Option<Kept>),
    /// What was found is not what was expected at these paths.
    Refused(Vec<RelPath>),
    Busy,
    Failed(Problem),
}

impl<D: Disk, A: Archive> Replica<D, A> {
    /// Carries out a batch, in order. Its end waits for the next batch, whose data one sync puts on disk together with
    /// these names, and whose intents one commit together with these rows; or for [`Replica::commit`]. Returns what of
    /// the batch before it is finished by now. Only the archive's errors, and a disk that cannot sync names, are errors
    /// here.
    pub fn carry_out(&mut self, mut jobs: Vec<Job<D::File>>) -> Result<Vec<Finished>, ReplicaError> {
        let mut failed = Vec::new();
        self.disk.ease();
        if let Err((detail, kind)) = self.sync_staged(&jobs)? {
            for job in jobs.drain(..) {
                let broken = Problem { path: job.apply.path.clone(), kind: kind.clone(), detail: detail.clone() };
                if let Some(staged) = &job.staged {
                    self.unstage(&staged.name);
                }
                let (generation, outcome) = (job.generation, Outcome::Failed(broken));
                failed.push(Finished { generation, reports: vec![], outcome });
            }
        }
        for job in &jobs {
            if let Some(intent) = self.intent(job)? {
                self.archive.intend(&intent)?;
            }
            if job.apply.joint {
                self.archive.note_joint(job.apply.node, job.generation)?;
            }
        }
        self.commit()?;
        let finished = std::mem::replace(&mut self.placed.finished, failed);
        self.placed.prepared = jobs;
        if finished.is_empty() {
            self.place_prepared()?;
        }
        Ok(finished)
    }

    /// Changes the names of the batch that is prepared. What of the batch before it was to be told has been: nobody shall
    /// see more of psync's work than the brain knows of.
    pub fn place_prepared(&mut self) -> Result<(), ReplicaError> {
        let placed = self.place_all();
        // Whatever came of it.
        let given = self.give_times_back();
        placed.and(given)
    }

    fn place_all(&mut self) -> Result<(), ReplicaError> {
        for job in std::mem::take(&mut self.placed.prepared) {
            let (generation, node, path) = (job.generation, job.apply.node, job.apply.path.clone());
            let not_set = job.staged.as_ref().map(|staged| staged.not_set.clone()).unwrap_or_default();
            let mut stranded = false;
            let placed = match self.place(job) {
                Err(error) => {
                    let problem = error.into_problem()?;
                    stranded = self.is_stranded(generation);
                    Placed::Failed(problem)
                }
                Ok(placed) => placed,
            };
            if matches!(placed, Placed::Done(..)) {
                self.news.count_not_set(&path, &not_set);
            }
            let one = self.finish_placed(generation, &path, placed)?;
            match stranded {
                true => self.hold_stranded(generation, node, &path)?,
                false => self.placed.unsettled.push(generation),
            }
            self.placed.finished.push(one);
        }
        Ok(())
    }

    /// Whether something that an action took out of its name could go neither to where it is kept nor back, and lies in the
    /// stage. What no intent speaks of is thrown away there by the next opening.
    fn is_stranded(&self, generation: Generation) -> bool {
        let listed = self.disk.own(Own::Stage).and_then(|stage| self.disk.list(&stage));
        // What cannot be listed may hold it.
        listed.map_or(true, |left| {
            left.iter().any(|(name, _)| {
                generation_of(name).is_some_and(|(of, _)| of == generation) && !self.placed.unplaced.contains(name)
            })
        })
    }

    /// Keeps an intent for what lies in the stage, which says nothing of rows: those go on. Its number is not given again.
    fn hold_stranded(&mut self, generation: Generation, node: NodeId, path: &RelPath) -> Result<(), ReplicaError> {
        self.identity.generation = self.identity.generation.max(generation);
        let stage = self.stage_name(generation)?;
        let step = IntentStep::Stranded;
        self.archive.intend(&Intent { generation, node, path: path.clone(), parent: None, stage, step })?;
        self.news.note(format!("{path}: what lay there could not be moved to the trash yet: the next start does that"));
        Ok(())
    }

    /// Throws away what is prepared and not placed: the intents that stay are settled by the next opening.
    pub fn drop_prepared(&mut self) {
        for job in std::mem::take(&mut self.placed.prepared) {
            if let Some(staged) = job.staged {
                self.unstage(&staged.name);
            }
        }
    }

    /// What is left of a batch is nobody's any more: its intents say what became of it.
    pub fn forget_batch(&mut self) {
        self.placed = Unfinished::default();
    }

    /// Whether a batch waits for its end.
    pub fn is_unfinished(&self) -> bool {
        !self.placed.finished.is_empty() || !self.placed.prepared.is_empty()
    }

    /// Ends the last batch: from now on it is on disk with its rows.
    pub fn finish_batch(&mut self) -> Result<Vec<Finished>, ReplicaError> {
        if self.is_unfinished() {
            self.place_prepared()?;
            self.commit()?;
        }
        Ok(std::mem::take(&mut self.placed.finished))
    }

    /// Makes everything that was recorded durable: first the names that changed, then the rows.
    pub fn commit(&mut self) -> Result<(), ReplicaError> {
        if self.settings.dry_run {
            return Ok(());
        }
        self.disk.ease();
        self.sync_names()?;
        for generation in std::mem::take(&mut self.placed.unsettled) {
            self.archive.settle(generation)?;
        }
        self.identity.boot = self.disk.boot_id();
        self.prove()?;
        if self.archive.identity()? != self.identity {
            self.archive.set_identity(&self.identity)?;
        }
        self.archive.commit()?;
        for name in std::mem::take(&mut self.placed.unplaced) {
            self.unstage(&name);
        }
        if self.disk.is_short() {
            self.archive.save_room();
        }
        Ok(())
    }

    /// Puts the names on disk that the last batch changed.
    fn sync_names(&mut self) -> Result<(), ReplicaError> {
        let touched = std::mem::take(&mut self.placed.touched);
        let dirs = self.placed_in(&touched);
        self.disk.sync_dirs(&dirs.iter().collect::<Vec<_>>()).at(&RelPath::root(), "sync directories")
    }

    /// The directories to be put on disk for names that changed in these.
    fn placed_in(&self, touched: &Touched<D::Dir>) -> Vec<D::Dir> {
        if touched.is_empty() || !self.settings.durable {
            return Vec::new();
        }
        // What was displaced must be in the trash for good before its intent is forgotten.
        let own = [Own::Stage, Own::Trash].map(|own| self.disk.own(own));
        touched.all().into_iter().chain(own.into_iter().flatten()).collect()
    }

    /// Puts files and directories on disk, and with them the names that the last batch changed.
    pub(crate) fn sync_with_names(&mut self, files: &[&D::File], dirs: &[&D::Dir]) -> std::io::Result<()> {
        let touched = self.placed_in(&self.placed.touched);
        let dirs: Vec<&D::Dir> = dirs.iter().copied().chain(&touched).collect();
        self.disk.sync(files, &dirs)?;
        self.placed.touched.clear();
        Ok(())
    }

    /// Puts staged objects on disk; the inner error is theirs.
    fn sync_staged(
        &mut self,
        jobs: &[Job<D::File>],
    ) -> Result<Result<(), (String, crate::model::ProblemKind)>, ReplicaError> {
        let files: Vec<&D::File> = jobs.iter().filter_map(|job| job.staged.as_ref()?.file.as_ref()).collect();
        if files.is_empty() || !self.settings.durable || self.sync_with_names(&files, &[]).is_ok() {
            return Ok(Ok(()));
        }
        // Whose error it was is not told: the names by themselves, then the files.
        self.sync_names()?;
        Ok(self.disk.sync_files(&files).map_err(|error| {
            let problem = problem(&RelPath::root(), "sync the staged files", &error);
            (problem.detail, problem.kind)
        }))
    }

    fn intent(&mut self, job: &Job<D::File>) -> Result<Option<Intent>, ReplicaError> {
        let path = &job.apply.path;
        let (step, stage) = match (&job.apply.step, &job.staged) {
            (Step::Put { entry, displaced, expect, .. }, Some(staged)) => {
                let copy = match displaced {
                    Displaced::Copy(name) => Some(name.clone()),
                    Displaced::Trash => None,
                };
                let victim = match expect {
                    Expect::Absent => None,
                    Expect::Row(_) | Expect::Report(_) => self.expected_signature(path)?,
                };
                let entry = Entry { content: entry.content.clone(), attrs: entry.attrs.clone() };
                let achieved = staged.achieved.clone();
                (IntentStep::Place { entry, achieved, staged: staged.object, victim, copy }, Some(staged.name.clone()))
            }
            (Step::Move { from, entry, .. }, _) => {
                let row = self.archive.node(job.apply.node)?;
                let known = row.as_ref().and_then(|row| row.signature);
                let Some(object) = self.object_meant(from, known) else { return Ok(None) };
                let (from, mode) = (from.clone(), entry.attrs.mode);
                match row.is_some_and(|row| rename::closes(&row, mode)) {
                    true => (IntentStep::ClosedMove { from, object, mode }, None),
                    false => (IntentStep::Move { from, object }, None),
                }
            }
            (Step::Exchange { from, other, .. }, _) => match self.exchange_step(from, other)? {
                Some(step) => (step, None),
                None => return Ok(None),
            },
            (Step::Remove { .. }, _) => {
                let known = self.expected_signature(path)?;
                let Some(object) = self.object_meant(path, known) else { return Ok(None) };
                (IntentStep::Remove { object }, None)
            }
            (Step::SetAttrs { entry, .. }, _) => match self.attributes_step(path, entry)? {
                Some(step) => (step, None),
                None => return Ok(None),
            },
            _ => return Ok(None),
        };
        let stage = match stage {
            Some(name) => name,
            None => self.stage_name(job.generation)?,
        };
        let parent = self.parent_meant(&job.apply)?;
        let (generation, node, path) = (job.generation, job.apply.node, path.clone());
        Ok(Some(Intent { generation, node, path, parent, stage, step }))
    }

    /// The directory that a new name is to be in. A path may lead elsewhere once this process is gone, and with it what was
    /// reported of directories that moved.
    fn parent_meant(&self, apply: &Apply) -> Result<Option<NodeId>, ReplicaError> {
        match (&apply.step, apply.parent, apply.path.parent()) {
            (Step::Put { .. } | Step::Move { .. } | Step::Exchange { .. }, None, Some(above)) => {
                Ok(self.node_of(&above)?)
            }
            (_, parent, _) => Ok(parent),
        }
    }

    /// The object that an action is about: as it is known, or as it lies there where its row has no signature yet.
    fn object_meant(&self, path: &RelPath, known: Option<Signature>) -> Option<(u64, Time)> {
        let known = known.map(|s| (s.ino, s.btime));
        known.or_else(|| self.object_at(path).map(|stat| (stat.ino, stat.btime)))
    }

    /// The signature of what should lie at a path: as reported, else as recorded.
    pub(crate) fn expected_signature(&self, path: &RelPath) -> Result<Option<Signature>, ReplicaError> {
        if let Some(reported) = self.ledger.get(path) {
            return Ok(reported.seen.as_ref().map(|seen| seen.signature));
        }
        Ok(self.row_at(path)?.and_then(|row| row.signature))
    }

    /// What to remember before attributes are set: the object that should lie there, as reported, else as recorded.
    fn attributes_step(&self, path: &RelPath, entry: &Entry) -> Result<Option<IntentStep>, ReplicaError> {
        let step = |signature: &Signature, before: &Attrs| IntentStep::Attributes {
            entry: entry.clone(),
            before: before.clone(),
            object: (signature.ino, signature.btime),
        };
        if let Some(reported) = self.ledger.get(path) {
            return Ok(reported.seen.as_ref().map(|seen| step(&seen.signature, &seen.attrs)));
        }
        let row = self.row_at(path)?;
        Ok(row.and_then(|row| row.compared().map(|signature| step(&signature, row.live_attrs()))))
    }

    fn finish_placed(
        &mut self,
        generation: Generation,
        path: &RelPath,
        placed: Placed,
    ) -> Result<Finished, ReplicaError> {
        let mut reports = Vec::new();
        let outcome = match placed {
            Placed::Done(entry, kept) => {
                self.identity.generation = self.identity.generation.max(generation);
                Outcome::Done { entry, kept }
            }
            Placed::Busy => Outcome::Busy,
            Placed::Failed(problem) => Outcome::Failed(problem),
            Placed::Refused(paths) => {
                let mut outcome = Outcome::Refused;
                for path in paths {
                    if let Some(parent) = path.parent().filter(|p| !p.is_root()) {
                        self.agenda.look(parent);
                    }
                    match self.examine(&path, How { again: true, ..How::default() })? {
                        // Its directory is gone as well, perhaps only moved: where that went tells what became of it.
                        Examined::Changed(change) if change.parent.is_none() && change.after.is_none() => {}
                        Examined::Changed(change) => reports.push(*change),
                        Examined::Busy | Examined::Reading => outcome = Outcome::Busy,
                        Examined::Problem(problem) => outcome = Outcome::Failed(problem),
                        Examined::Excluded => outcome = Outcome::Failed(excluded(&path)),
                        Examined::Same | Examined::Known | Examined::Above(_) | Examined::Left { .. } => {}
                    }
                }
                outcome
            }
        };
        // Whatever happened under this name, events that say so are worth a look.
        if !matches!(outcome, Outcome::Done { .. }) {
            self.agenda.look(path.clone());
        }
        Ok(Finished { generation, reports, outcome })
    }
}

fn excluded(path: &RelPath) -> Problem {
    let detail = "this name is excluded here: the filters of the two sides differ".to_owned();
    Problem { path: path.clone(), kind: crate::model::ProblemKind::Io, detail }
}

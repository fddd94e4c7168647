//! A batch of actions: data on disk, intents on disk, names changed, names on disk, rows on disk. One sync each,
//! however many actions there are.

use std::collections::BTreeMap;

use crate::model::{Apply, Change, Displaced, Entry, Generation, Outcome, Problem, RelPath, Step, Time};

use super::Replica;
use super::archive::{Archive, Intent, IntentStep, Signature};
use super::disk::{Disk, Own};
use super::error::{At, ReplicaError, problem};
use super::examine::{Examined, How};
use super::stage::Staged;

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

/// The directories whose names changed in this batch.
pub(crate) type Touched<Dir> = BTreeMap<RelPath, Dir>;

/// How placing went.
pub(crate) enum Placed {
    Done(Option<Entry>),
    /// What was found is not what was expected at these paths.
    Refused(Vec<RelPath>),
    Busy,
    Failed(Problem),
}

impl<D: Disk, A: Archive> Replica<D, A> {
    /// Carries out a batch, in order. Only the archive's errors, and a disk that cannot sync names, are errors here.
    pub fn carry_out(&mut self, mut jobs: Vec<Job<D::File>>) -> Result<Vec<Finished>, ReplicaError> {
        let mut finished = Vec::with_capacity(jobs.len());
        self.disk.ease();
        if let Err((detail, kind)) = self.sync_staged(&jobs) {
            for job in jobs.drain(..) {
                let broken = Problem { path: job.apply.path.clone(), kind: kind.clone(), detail: detail.clone() };
                if let Some(staged) = &job.staged {
                    self.unstage(&staged.name);
                }
                finished.push(Finished {
                    generation: job.generation,
                    reports: vec![],
                    outcome: Outcome::Failed(broken),
                });
            }
        }
        for job in &jobs {
            if let Some(intent) = self.intent(job)? {
                self.archive.intend(&intent)?;
            }
        }
        self.archive.commit()?;
        let mut touched = Touched::new();
        for job in jobs {
            let (generation, path) = (job.generation, job.apply.path.clone());
            let not_set = job.staged.as_ref().map(|staged| staged.not_set.clone()).unwrap_or_default();
            let placed = match self.place(job, &mut touched) {
                Err(error) => Placed::Failed(error.into_problem()?),
                Ok(placed) => placed,
            };
            if matches!(placed, Placed::Done(_)) {
                self.not_set.count(&not_set);
            }
            finished.push(self.finish_placed(generation, &path, placed)?);
        }
        if self.settings.durable {
            // What was displaced must be in the trash for good before its intent is forgotten.
            let own = [Own::Stage, Own::Trash].map(|own| self.disk.own(own));
            let dirs: Vec<&D::Dir> = touched.values().chain(own.iter().flatten()).collect();
            self.disk.sync_dirs(&dirs).at(&RelPath::root(), "sync directories")?;
        }
        for done in &finished {
            self.archive.settle(done.generation)?;
        }
        self.commit()?;
        Ok(finished)
    }

    /// Makes everything that was recorded durable.
    pub fn commit(&mut self) -> Result<(), ReplicaError> {
        if self.settings.dry_run {
            return Ok(());
        }
        self.disk.ease();
        self.identity.boot = self.disk.boot_id();
        if self.archive.identity()? != self.identity {
            self.archive.set_identity(&self.identity)?;
        }
        self.archive.commit()?;
        if self.disk.is_short() {
            self.archive.save_room();
        }
        Ok(())
    }

    fn sync_staged(&self, jobs: &[Job<D::File>]) -> Result<(), (String, crate::model::ProblemKind)> {
        let files: Vec<&D::File> = jobs.iter().filter_map(|job| job.staged.as_ref()?.file.as_ref()).collect();
        if files.is_empty() || !self.settings.durable {
            return Ok(());
        }
        self.disk.sync_files(&files).map_err(|error| {
            let problem = problem(&RelPath::root(), "sync the staged files", &error);
            (problem.detail, problem.kind)
        })
    }

    fn intent(&mut self, job: &Job<D::File>) -> Result<Option<Intent>, ReplicaError> {
        let path = &job.apply.path;
        let (step, stage) = match (&job.apply.step, &job.staged) {
            (Step::Put { entry, displaced, .. }, Some(staged)) => {
                let copy = match displaced {
                    Displaced::Copy(name) => Some(name.clone()),
                    Displaced::Trash => None,
                };
                let victim = self.expected_signature(path)?;
                let entry = Entry { content: entry.content.clone(), attrs: entry.attrs.clone() };
                let achieved = staged.achieved.clone();
                (IntentStep::Place { entry, achieved, staged: staged.object, victim, copy }, Some(staged.name.clone()))
            }
            (Step::Move { from, .. }, _) => {
                let known = self.archive.node(job.apply.node)?.and_then(|row| row.signature);
                let Some(object) = self.object_meant(from, known) else { return Ok(None) };
                (IntentStep::Move { from: from.clone(), object }, None)
            }
            (Step::Remove { .. }, _) => {
                let known = self.expected_signature(path)?;
                let Some(object) = self.object_meant(path, known) else { return Ok(None) };
                (IntentStep::Remove { object }, None)
            }
            _ => return Ok(None),
        };
        let stage = match stage {
            Some(name) => name,
            None => self.stage_name(job.generation)?,
        };
        Ok(Some(Intent { generation: job.generation, node: job.apply.node, path: path.clone(), stage, step }))
    }

    /// The object that an action is about: as it is known, or as it lies there where its row has no signature yet.
    fn object_meant(&self, path: &RelPath, known: Option<Signature>) -> Option<(u64, Time)> {
        let known = known.map(|s| (s.ino, s.btime));
        known.or_else(|| self.object_at(path).map(|stat| (stat.ino, stat.btime)))
    }

    /// The signature of what should lie at a path: as reported, else as recorded.
    pub(crate) fn expected_signature(&self, path: &RelPath) -> Result<Option<Signature>, ReplicaError> {
        if let Some(reported) = self.reported.get(path) {
            return Ok(reported.seen.as_ref().map(|seen| seen.signature));
        }
        Ok(self.row_at(path)?.and_then(|row| row.signature))
    }

    fn finish_placed(
        &mut self,
        generation: Generation,
        path: &RelPath,
        placed: Placed,
    ) -> Result<Finished, ReplicaError> {
        let mut reports = Vec::new();
        let outcome = match placed {
            Placed::Done(entry) => {
                self.identity.generation = self.identity.generation.max(generation);
                Outcome::Done { entry }
            }
            Placed::Busy => Outcome::Busy,
            Placed::Failed(problem) => Outcome::Failed(problem),
            Placed::Refused(paths) => {
                let mut outcome = Outcome::Refused;
                for path in paths {
                    if let Some(parent) = path.parent().filter(|p| !p.is_root()) {
                        self.dirty.insert(parent);
                    }
                    match self.examine(&path, How { again: true, ..How::default() })? {
                        // Its directory is gone as well, perhaps only moved: where that went tells what became of it.
                        Examined::Changed(change) if change.parent.is_none() && change.after.is_none() => {}
                        Examined::Changed(change) => reports.push(*change),
                        Examined::Busy => outcome = Outcome::Busy,
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
            self.dirty.insert(path.clone());
        }
        Ok(Finished { generation, reports, outcome })
    }
}

fn excluded(path: &RelPath) -> Problem {
    let detail = "this name is excluded here: the filters of the two sides differ".to_owned();
    Problem { path: path.clone(), kind: crate::model::ProblemKind::Io, detail }
}

//! What a worker is told, and what it tells control: the latter it may do itself.

use super::serve::FileService;
use super::shared::ToWorker;
use super::task::Job;
use crate::base::NodeId;
use crate::kernel::port::Port;

impl FileService {
    pub(super) fn hear(&mut self, port: &mut Port, message: ToWorker) {
        match message {
            ToWorker::Look => {} // every worker looks for a new state when it wakes
            ToWorker::Loaded(came) => self.loaded(port, came),
            ToWorker::Shown => {
                self.wake_future(port);
                self.wake_zhead(port);
                self.end_links(port);
            }
            ToWorker::LinkRead(unique, result) => self.link_read(port, unique, result),
            ToWorker::LinkWrote(unique, result) => self.link_wrote(port, unique, result),
            ToWorker::WayOut(unique) => self.way_out(port, unique),
            ToWorker::Granted(unique, granted) => self.granted(port, unique, granted),
            ToWorker::Stored(unique) => self.stored(port, unique),
            ToWorker::ReadOn(on) => self.read_on(port, on),
            ToWorker::Probed => self.probed(port),
            ToWorker::Interrupt(unique) => self.interrupt(port, unique),
            ToWorker::Forgotten(ids) => self.forgotten(&ids),
        }
    }

    /// Does what it told control itself, if that is free and it does not take long.
    pub(super) fn stand_in(&mut self, port: &mut Port) {
        while self.watching.take_told() {
            let mut own = std::mem::take(&mut self.own);
            if !self.links.place.stand_in(self.index, &mut own) {
                self.links.control.wake();
            }
            for message in own.drain(..) {
                self.hear(port, message);
            }
            self.own = own;
        }
    }

    fn forgotten(&mut self, ids: &[NodeId]) {
        for id in ids {
            if let Some(file) = self.files.remove(id) {
                self.looked_up.forget(&file);
            }
            self.infos.remove(id);
            self.depends.forget(*id);
            self.noted.remove(id);
        }
        if let Some(mut touches) = self.shared.touches(self.index) {
            touches.retain(|id| !ids.contains(&id));
        }
        self.forget_storing(ids);
        // What is still being stored for them would note them again.
        let left = self.tasks.iter_mut().flatten().filter(|t| t.held.is_none());
        for task in left.filter(|t| t.job.node().is_some_and(|id| ids.contains(&id))) {
            task.job = Job::Abandoned;
        }
    }
}

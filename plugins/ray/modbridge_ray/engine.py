"""The engine `ray`: tasks as rows of a Ray Data set, mapped by a pool of workers that stay.

Ray would start a lost worker again by itself, but keeps the tasks that it had for it alone, and waits for ever where
its node is gone for good. So workers are not restarted here: the pass ends, and the next one hands what is left to the
workers that the nodes have room for by then.
"""

from __future__ import annotations

import logging
import math
import pickle
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

from modbridge.errors import SetupError
from modbridge.interfaces.engine import Engine, Work
from modbridge_ray.cluster import join, share_of
from modbridge_ray.config import RayConfig
from modbridge_ray.worker import Failed, Surroundings, Worker

SPARED = 8  # one worker in so many may be lost while the others go on; with more all begin anew

talk = logging.getLogger(__name__)


class RayEngine(Engine[RayConfig]):
    """Workers of a Ray cluster. They are started for each stage and stopped after it."""

    def map(
        self, opened: Callable[..., Work], about: tuple[Any, ...], tasks: Sequence[Any]
    ) -> Iterator[tuple[int, Any]]:
        join(self.config)
        from ray.exceptions import RayError

        job = pickle.dumps((opened, about))
        left = dict(enumerate(tasks))
        barren = 0
        while left:
            before, lost = len(left), "a worker was lost"
            try:
                for number, result in _off_stdout(self._passed(job, left)):
                    if isinstance(result, Failed):
                        raise result.again()
                    if left.pop(number, None) is not None:
                        yield number, result
            except RayError as error:
                lost = _what_was_lost(error)
            if not left:
                return
            barren = 0 if len(left) < before else barren + 1
            if barren > self.config.retries:
                raise SetupError(
                    f"the workers of the Ray cluster were lost {barren} times in a row without doing a task: {lost}. "
                    f"Most often it is want of memory: give each more cores (--engine-set cpus_per_worker=N), so that "
                    f"there are fewer, or a smaller batch_size. Ray's logs are in /tmp/ray/session_latest/logs."
                )
            talk.warning("ray: %s; going on with the %d of %d tasks that are left", lost, len(left), len(tasks))

    def _passed(self, job: bytes, left: Mapping[int, Any]) -> Iterator[tuple[int, Any]]:
        """One pass over what is left: numbers and results, or what failed, until all is done or workers are lost."""
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        share = share_of(self.config, nodes, len(left))
        calls = math.ceil(len(left) / min(self.config.tasks_per_call, math.ceil(len(left) / share.workers)))
        rows = [{"number": number, "task": pickle.dumps(task)} for number, task in left.items()]
        data = ray.data.from_items(rows, override_num_blocks=calls)
        context = data.context
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.execution_no_progress_timeout_s = -1  # a call may take hours
        context.max_errored_blocks = share.workers // SPARED
        with warnings.catch_warnings():
            # Ray 2.64 drops these two; until then nothing else says that a worker is not to be started again.
            warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
            results = data.map_batches(
                Worker,
                fn_constructor_args=(job, Surroundings()),
                batch_size=None,
                batch_format="numpy",
                compute=ray.data.ActorPoolStrategy(size=share.workers, max_tasks_in_flight_per_actor=1),
                num_cpus=share.cpus,
                num_gpus=share.gpus,
                max_restarts=0,
                max_task_retries=0,
            )
        for batch in results.iter_batches(batch_size=None, prefetch_batches=0, batch_format="numpy"):
            for number, result in zip(batch["number"], batch["result"], strict=True):
                yield int(number), pickle.loads(result)


def _off_stdout(results: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
    """The results, without what Ray prints meanwhile of workers that died: stdout is for ours, and it is told below."""
    while True:
        with redirect_stdout(StringIO()):
            found = next(results, None)
        if found is None:
            return
        yield found


def _what_was_lost(error: BaseException) -> str:
    """What became of a worker, in few words of Ray's."""
    cause = re.search(r"\bbecause (.*?)(\.\s|$)", str(error), re.DOTALL)
    return f"a worker was lost, {' '.join(cause[1].split())[:200] if cause else type(error).__name__}"

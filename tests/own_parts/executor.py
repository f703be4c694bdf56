"""An executor of one's own: the last job first."""

USED = []


class Backwards:
    "Results come in the order of the jobs all the same."

    def run(self, jobs, listener):
        results = [None] * len(jobs)
        for number in reversed(range(len(jobs))):
            listener.on_job_begin(number)
            results[number] = jobs[number].run(listener.control)
            listener.on_job_end(number, results[number])
            USED.append(number)
        return results

// Asks one question at a time. Of those that come meanwhile only the newest is asked, so that a slider that moves all
// the time gets answers all the time, and a slow server is asked no faster than it answers.

export class Newest {
  #ask;
  #show;
  #waiting = null;
  #running = null;

  /** ask(input, signal): a promise. show(input, answer, error): called in the order in which inputs were put. */
  constructor(ask, show) {
    this.#ask = ask;
    this.#show = show;
  }

  put(input) {
    this.#waiting = { input };
    if (!this.#running) this.#run();
  }

  /** Forget what was asked: its answer will not be shown. */
  drop() {
    this.#waiting = null;
    this.#running?.abort();
    this.#running = null;
  }

  async #run() {
    while (this.#waiting) {
      const { input } = this.#waiting;
      this.#waiting = null;
      const running = (this.#running = new AbortController());
      let answer, error;
      try {
        answer = await this.#ask(input, running.signal);
      } catch (caught) {
        error = caught;
      }
      if (running.signal.aborted) return;
      this.#show(input, answer, error);
    }
    this.#running = null;
  }
}

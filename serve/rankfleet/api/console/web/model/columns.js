// The rankings of one request: a column for the order as sent, one for each tier, and one for `auto`.

/**
 * key: `sent`, `auto`, or a tier. state: `waiting`, `done` or `failed`.
 * order: indexes of documents, best first. results: by index, {relevance_score, logit}. reply, error: of the request.
 */
export class Column {
  constructor(key, state = "waiting") {
    Object.assign(this, { key, state, order: [], results: new Map(), reply: null, error: null });
  }

  static sent(documents) {
    const column = new Column("sent", "done");
    column.order = documents.map((_, index) => index);
    return column;
  }

  answered(reply) {
    this.state = "done";
    this.reply = reply;
    this.order = reply.results.map((result) => result.index);
    this.results = new Map(reply.results.map((result) => [result.index, result]));
  }

  failed(error) {
    this.state = "failed";
    this.error = error;
  }

  /** From 1; null as long as there is no answer. */
  rankOf(index) {
    const place = this.order.indexOf(index);
    return place < 0 ? null : place + 1;
  }

  /** What was carried out: `large`, or `large on the best 5 by small`, as `planName` names alternatives. */
  get planName() {
    const { stages, tier } = this.reply.rankfleet;
    if (!stages.length) return "the order as given";
    if (stages.length > 1) return `${tier} on the best ${stages.at(-1).candidates} by ${stages[0].tier}`;
    return stages[0].candidates < this.order.length ? `${tier} on the first ${stages[0].candidates} of ${this.order.length}` : tier;
  }

  get totalMs() {
    return this.reply.rankfleet.timing_ms.total;
  }
}

// The tiers of the fleet, and the colour that each has all over the page.

export class Tiers {
  /** models: of GET /v1/models. */
  constructor(models) {
    this.all = models.filter((model) => model.kind === "tier");
    this.names = this.all.map((tier) => tier.id);
  }

  /** The value of `data-tier`, by which style sheets colour what belongs to a tier. */
  index = (name) => (name === "none" ? "given" : this.names.indexOf(name) % 6);
}

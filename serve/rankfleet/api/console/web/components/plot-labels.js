// Places the names of points in a plot where they cover neither each other nor a point.

const LINE = 15;
const LETTER = 7.2; // mean width in pixels
const GAP = 11;

/** [{point, x, y, anchor}]. points: {x, y, name}, in pixels. xs, ys: the area that labels keep to. */
export function placeLabels(points, xs, ys) {
  const taken = points.map(({ x, y }) => ({ left: x - 7, right: x + 7, top: y - 7, bottom: y + 7 }));
  return [...points]
    .reverse() // the chosen one is drawn last, and placed first
    .map((point) => {
      const places = candidates(point, point.name.length * LETTER);
      const free = places.find(({ box }) => inside(box, xs, ys) && !taken.some((other) => overlap(box, other)));
      const { x, y, anchor, box } = free ?? places.find((place) => inside(place.box, xs, ys)) ?? places[0];
      taken.push(box);
      return { point, x, y, anchor };
    });
}

function candidates({ x, y }, width) {
  const at = (left, baseline, anchor, textX) => ({
    x: textX, y: baseline, anchor,
    box: { left, right: left + width, top: baseline - LINE + 3, bottom: baseline + 3 },
  });
  return [
    at(x - width / 2, y - GAP - 2, "middle", x),
    at(x - width / 2, y + GAP + 13, "middle", x),
    at(x + GAP + 3, y + 4, "start", x + GAP + 3),
    at(x - GAP - 3 - width, y + 4, "end", x - GAP - 3),
    at(x - width / 2, y - GAP - 2 - LINE, "middle", x),
    at(x - width / 2, y + GAP + 13 + LINE, "middle", x),
  ];
}

const inside = (box, xs, ys) => box.left >= xs[0] - 40 && box.right <= xs[1] + 20 && box.top >= ys[0] - 6 && box.bottom <= ys[1];

const overlap = (one, other) =>
  one.left < other.right && other.left < one.right && one.top < other.bottom && other.top < one.bottom;

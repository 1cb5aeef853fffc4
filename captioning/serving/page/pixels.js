// A picture file to the pixels that captioners were trained on: upright by EXIF, transparency over white, squashed to
// a square. captioning/pictures/loading.py does the same for the server. The arithmetic of squash is Pillow's.

const BITS = 22;            // of the fraction in the weights of the resampling, as in Pillow
const STRIP = 1 << 20;      // pixels that are read from the picture at a time
const LARGE = 30e6;         // pixels above which a picture is made smaller by a whole factor first

// The pixels of a picture: RGB, size * size * 3 bytes. Throws what createImageBitmap does where it is no picture.
export async function pixelsOf(file, size) {
  const start = new Uint8Array(await file.slice(0, 3).arrayBuffer());
  const isJpeg = start[0] === 0xff && start[1] === 0xd8 && start[2] === 0xff;
  const options = { imageOrientation: "from-image", premultiplyAlpha: "none", colorSpaceConversion: "none" };
  const picture = await createImageBitmap(file, options);
  try {
    const { width, height } = picture;
    return squash(partsOf(picture), width, height, size, factorFor(width, height, size, isJpeg));
  } finally {
    picture.close();
  }
}

// Large pictures are made smaller by a whole factor first, but not below twice the size. The server lets the decoder of
// JPEGs do that, which gives nearly the same pixels as means of squares do.
export function factorFor(width, height, size, isJpeg) {
  const most = Math.max(1, Math.floor(Math.min(width, height) / (2 * size)));
  if (isJpeg) return [8, 4, 2, 1].find((factor) => factor <= most);
  return width * height > LARGE ? most : 1;
}

// A function that gives a part of a picture as RGBA over white. A small canvas is enough for any picture.
function partsOf(picture) {
  const canvas = new OffscreenCanvas(1, 1);
  return (left, top, width, height) => {
    [canvas.width, canvas.height] = [width, height];
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.fillStyle = "white";
    context.fillRect(0, 0, width, height);
    context.drawImage(picture, -left, -top);
    return context.getImageData(0, 0, width, height).data;
  };
}

// A picture resampled to size x size by antialiased bicubic: in one direction and then in the other, each rounded to
// whole numbers. part(left, top, width, height) gives RGBA. factor: means of factor x factor pixels are taken first.
export function squash(part, width, height, size, factor = 1) {
  const [wide, high] = [Math.ceil(width / factor), Math.ceil(height / factor)];
  const [across, down] = [weights(wide, size), weights(high, size)];
  const pixels = new Uint8Array(size * size * 3);
  const small = (left, top, partWidth, partHeight) => (
    reduce(part(left, top, partWidth, partHeight), partWidth, partHeight, factor)
  );
  if (high > size && high - size > 2 * (wide - size)) {  // as Pillow 13 does with high pictures
    const middle = new Uint8Array(size * wide * 3);
    for (const [left, columns] of strips(width, height, factor)) {
      const strip = small(left, 0, columns, height);
      const found = Math.ceil(columns / factor);
      for (let x = 0; x < found; x++) {
        resample(strip.subarray(x * 4), found * 4, middle.subarray((left / factor + x) * 3), wide * 3, down);
      }
    }
    for (let y = 0; y < size; y++) {
      resample(middle.subarray(y * wide * 3), 3, pixels.subarray(y * size * 3), 3, across);
    }
  } else {
    const middle = new Uint8Array(high * size * 3);
    for (const [top, rows] of strips(height, width, factor)) {
      const strip = small(0, top, width, rows);
      for (let y = 0; y < Math.ceil(rows / factor); y++) {
        resample(strip.subarray(y * wide * 4), 4, middle.subarray((top / factor + y) * size * 3), 3, across);
      }
    }
    for (let x = 0; x < size; x++) {
      resample(middle.subarray(x * 3), size * 3, pixels.subarray(x * 3), size * 3, down);
    }
  }
  return pixels;
}

// Where strips of a picture start, and how many lines each has. All but the last have a multiple of factor lines.
function* strips(lines, length, factor) {
  const step = Math.max(1, Math.floor(STRIP / length / factor)) * factor;
  for (let start = 0; start < lines; start += step) yield [start, Math.min(step, lines - start)];
}

// One line of RGB pixels, resampled. Its pixels are so many bytes apart, and so are those of the result.
function resample(source, apart, target, targetApart, taps) {
  for (let i = 0; i < taps.length; i++) {
    const { first, share } = taps[i];
    let red = 1 << (BITS - 1);
    let green = red;
    let blue = red;
    for (let k = 0, at = first * apart; k < share.length; k++, at += apart) {
      red += source[at] * share[k];
      green += source[at + 1] * share[k];
      blue += source[at + 2] * share[k];
    }
    target[i * targetApart] = clip(red);
    target[i * targetApart + 1] = clip(green);
    target[i * targetApart + 2] = clip(blue);
  }
}

const clip = (sum) => Math.min(255, Math.max(0, sum >> BITS));

// For each pixel of a line of "to" pixels: the first pixel of the line of "from" that it is made of, and their shares.
function weights(from, to) {
  const scale = from / to;
  const wider = Math.max(1, scale);
  return Array.from({ length: to }, (_, i) => {
    if (from === to) return { first: i, share: [1 << BITS] };  // nothing to resample
    const centre = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - 2 * wider + 0.5));
    const behind = Math.min(from, Math.trunc(centre + 2 * wider + 0.5));
    const values = Array.from({ length: behind - first }, (_, k) => cubic((first + k - centre + 0.5) / wider));
    const sum = values.reduce((total, value) => total + value, 0);
    return { first, share: values.map((value) => Math.trunc((value / sum) * (1 << BITS) + 0.5 * Math.sign(value))) };
  });
}

// The cubic convolution of Keys (1981) with a = -0.5.
function cubic(x) {
  const a = -0.5;
  x = Math.abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

// RGBA pixels, each the mean of factor x factor ones, or of those that are there at the edge.
function reduce(strip, width, height, factor) {
  if (factor === 1) return strip;
  const [wide, high] = [Math.ceil(width / factor), Math.ceil(height / factor)];
  const small = new Uint8Array(wide * high * 4);
  const sums = new Uint32Array(wide * 4);
  for (let top = 0; top < high; top++) {
    sums.fill(0);
    const last = Math.min(height, (top + 1) * factor);
    for (let y = top * factor; y < last; y++) {
      for (let x = 0, at = y * width * 4; x < width; x++, at += 4) {
        const to = Math.floor(x / factor) * 4;
        sums[to] += strip[at];
        sums[to + 1] += strip[at + 1];
        sums[to + 2] += strip[at + 2];
      }
    }
    for (let x = 0; x < wide; x++) {
      const count = (last - top * factor) * (Math.min(width, (x + 1) * factor) - x * factor);
      for (let band = 0; band < 3; band++) small[(top * wide + x) * 4 + band] = Math.round(sums[x * 4 + band] / count);
    }
  }
  return small;
}

// Images as pixels, as the network was trained to see them: src/data/framing.py says how.

// Of how many neighbouring pixels an interpolated one is made, and their weights by distance.
const KERNELS = {
  bilinear: { taps: 2, weight: (distance) => Math.max(0, 1 - distance) },
  bicubic: { taps: 4, weight: cubic },
};

// The image of a file, upright, without a change of its colours.
export function decode(file) {
  return createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none" });
}

// Where the resized image lies on the square that the network sees, in pixels of the square. For crop_mode center it is
// larger than the square.
export function place({ width, height }, preprocessing) {
  const { crop_mode: mode, centre_crop: size, resize_shorter_side: shorter } = preprocessing;
  let resize = () => size;  // squash
  if (mode === "pad") {
    const longer = Math.max(width, height);
    resize = (side) => Math.max(1, Math.trunc(side * size / longer + 0.5));
  } else if (mode === "center") {
    // The longer side is computed in float32 and cut to a whole number, as MindSpore does.
    const least = Math.min(width, height);
    resize = (side) => Math.trunc(Math.fround(Math.fround(side / least) * shorter));
  }
  const placed = { width: resize(width), height: resize(height) };
  return { ...placed, left: Math.trunc((size - placed.width) / 2), top: Math.trunc((size - placed.height) / 2) };
}

// 3 x size x size float32 of 0 to 255. An interpolated pixel is made of its nearest neighbours alone, as MindSpore (and
// OpenCV) does. A canvas would take the mean of more pixels in images that become smaller, which the network has not
// seen in training.
export function networkInput(image, preprocessing) {
  const { centre_crop: size, interpolation, pad_colour: ground = [0, 0, 0] } = preprocessing;
  const { data, width, height } = read(image);
  const placed = place(image, preprocessing);
  const kernel = KERNELS[interpolation];
  const columns = neighbours(placed.left, placed.width, size, width, kernel);
  const rows = neighbours(placed.top, placed.height, size, height, kernel);
  const input = new Float32Array(3 * size * size);
  for (let channel = 0; channel < 3; channel++) {
    const plane = input.subarray(channel * size * size, (channel + 1) * size * size).fill(ground[channel]);
    for (let y = rows.first; y < rows.last; y++) {
      for (let x = columns.first; x < columns.last; x++) {
        let sum = 0;
        for (let row = 0; row < kernel.taps; row++) {
          const v = (y - rows.first) * kernel.taps + row;
          const line = rows.pixels[v] * width;
          for (let column = 0; column < kernel.taps; column++) {
            const u = (x - columns.first) * kernel.taps + column;
            sum += rows.weights[v] * columns.weights[u] * data[4 * (line + columns.pixels[u]) + channel];
          }
        }
        plane[y * size + x] = Math.min(255, Math.max(0, Math.round(sum)));
      }
    }
  }
  return input;
}

// The pixels of an image, RGBA, with what is transparent on white.
function read(image) {
  const canvas = new OffscreenCanvas(image.width, image.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, image.width, image.height);
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, image.width, image.height);
}

// For a line of the square, which an image of `length` pixels covers from `start` on with `placed` pixels: the places
// `first` to before `last`, and the `taps` pixels of the image that each is made of, with their weights. Centres of
// pixels lie on centres: place p of the resized image is at (p + 1/2) * scale - 1/2. Beyond the ends, the outermost
// pixels are repeated.
function neighbours(start, placed, size, length, { taps, weight }) {
  const first = Math.max(0, start);
  const last = Math.min(size, start + placed);
  const pixels = new Int32Array((last - first) * taps);
  const weights = new Float64Array((last - first) * taps);
  for (let spot = first; spot < last; spot++) {
    const at = (spot - start + 0.5) * length / placed - 0.5;
    const leftmost = Math.floor(at) - taps / 2 + 1;
    for (let tap = 0; tap < taps; tap++) {
      const index = (spot - first) * taps + tap;
      pixels[index] = Math.min(Math.max(leftmost + tap, 0), length - 1);
      weights[index] = weight(Math.abs(at - leftmost - tap));
    }
  }
  return { first, last, pixels, weights };
}

// Keys: Cubic convolution interpolation for digital image processing. IEEE Transactions on Acoustics, Speech, and Signal
// Processing 29, 1981; with a = -3/4, as MindSpore (and OpenCV) has it.
function cubic(distance) {
  const a = -0.75;
  if (distance <= 1) return ((a + 2) * distance - (a + 3)) * distance ** 2 + 1;
  return distance < 2 ? a * (((distance - 5) * distance + 8) * distance - 4) : 0;
}

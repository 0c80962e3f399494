// Images as pixels, as the network was trained to see them.

// The image of a file, upright, without a change of its colours.
export function decode(file) {
  return createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none" });
}

// 3 x size x size float32 of 0 to 255: the shorter side is resized, then the centre is cut out. The resizing is bilinear
// between the four nearest pixels, as MindSpore's (and OpenCV's) is. A canvas would take the mean of more pixels in
// images that become smaller, which the network has not seen in training.
export function networkInput(image, { resize_shorter_side: shorter, centre_crop: size }) {
  const { data, width, height } = read(image);
  // The longer side is cut to a whole number, as MindSpore does.
  const resizedWidth = width <= height ? shorter : Math.trunc(width / height * shorter);
  const resizedHeight = width <= height ? Math.trunc(height / width * shorter) : shorter;
  const columns = neighbours(size, Math.floor((resizedWidth - size) / 2), width / resizedWidth, width);
  const rows = neighbours(size, Math.floor((resizedHeight - size) / 2), height / resizedHeight, height);
  const input = new Float32Array(3 * size * size);
  for (let y = 0; y < size; y++) {
    const above = rows.first[y] * width;
    const below = rows.second[y] * width;
    const v = rows.share[y];
    for (let x = 0; x < size; x++) {
      const left = columns.first[x];
      const right = columns.second[x];
      const u = columns.share[x];
      for (let channel = 0; channel < 3; channel++) {
        const top = (1 - u) * data[4 * (above + left) + channel] + u * data[4 * (above + right) + channel];
        const bottom = (1 - u) * data[4 * (below + left) + channel] + u * data[4 * (below + right) + channel];
        input[(channel * size + y) * size + x] = Math.round((1 - v) * top + v * bottom);
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

// For each of `count` places from `offset` on in a resized line: the two nearest pixels of the line, and the share of
// the second. Centres of pixels lie on centres: place p is at (p + 1/2) * scale - 1/2.
function neighbours(count, offset, scale, length) {
  const first = new Int32Array(count);
  const second = new Int32Array(count);
  const share = new Float64Array(count);
  for (let place = 0; place < count; place++) {
    const at = Math.min(Math.max((offset + place + 0.5) * scale - 0.5, 0), length - 1);
    first[place] = Math.floor(at);
    second[place] = Math.min(first[place] + 1, length - 1);
    share[place] = at - first[place];
  }
  return { first, second, share };
}

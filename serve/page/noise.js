// Gaussian noise and its measure, on 8-bit RGBA pixels as a canvas has them.

// Standard normal numbers, the same from the same seed: Marsaglia's xorshift (2003), then Box and Muller's transform.
function normals(seed) {
  let state = seed, spare = null;
  const uniform = () => {  // in (0, 1)
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return ((Math.imul(state, 0x9e3779b1) >>> 0) + 0.5) / 2 ** 32;
  };
  return () => {
    if (spare !== null) {
      const value = spare;
      spare = null;
      return value;
    }
    const radius = Math.sqrt(-2 * Math.log(uniform())), angle = 2 * Math.PI * uniform();
    spare = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  };
}

// The picture with noise of this standard deviation, in units of one grey level; the alpha channel stays.
export function withNoise(clean, sigma, seed) {
  const normal = normals(seed);
  const noisy = new Uint8ClampedArray(clean);  // rounds and clips what is assigned
  for (let i = 0; i < noisy.length; i += 4) {
    noisy[i] = clean[i] + sigma * normal();
    noisy[i + 1] = clean[i + 1] + sigma * normal();
    noisy[i + 2] = clean[i + 2] + sigma * normal();
  }
  return noisy;
}

// In dB, over the three colours of all pixels: 10 log10(255^2 / mean squared error). Infinity where all are equal.
export function psnr(one, two) {
  let sum = 0;
  for (let i = 0; i < one.length; i += 4) {
    const red = one[i] - two[i], green = one[i + 1] - two[i + 1], blue = one[i + 2] - two[i + 2];
    sum += red * red + green * green + blue * blue;
  }
  return 10 * Math.log10(255 ** 2 * (one.length / 4) * 3 / sum);
}

// A PNG file of 8-bit pixels, without alpha where all are opaque: a canvas would write four channels whatever it holds.

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const CRCS = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? 0xedb88320 ^ (crc >>> 1) : crc >>> 1;
  return crc;
});

// From RGBA pixels as a canvas has them.
export async function pngOf({ width, height, data }) {
  const channels = isOpaque(data) ? 3 : 4;
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint8(8, 8);  // bits
  header.setUint8(9, channels === 3 ? 2 : 6);  // the colour type: RGB or RGBA
  const packed = new Blob([rowsOf(width, height, data, channels)]).stream().pipeThrough(new CompressionStream("deflate"));
  const pixels = new Uint8Array(await new Response(packed).arrayBuffer());
  const chunks = [chunk("IHDR", new Uint8Array(header.buffer)), chunk("IDAT", pixels), chunk("IEND", new Uint8Array(0))];
  return new Blob([new Uint8Array(SIGNATURE), ...chunks.flat()], { type: "image/png" });
}

function isOpaque(data) {
  for (let i = 3; i < data.length; i += 4) if (data[i] < 255) return false;
  return true;
}

// Each row begins with the number of its filter: 0, none, as there is nothing to predict in noise.
function rowsOf(width, height, data, channels) {
  const rows = new Uint8Array(height * (1 + width * channels));
  let at = 0, from = 0;
  for (let row = 0; row < height; row++) {
    at++;
    for (let column = 0; column < width; column++, from += 4) {
      for (let channel = 0; channel < channels; channel++) rows[at++] = data[from + channel];
    }
  }
  return rows;
}

// Length, name, content, and the checksum of name and content.
function chunk(name, content) {
  const head = new DataView(new ArrayBuffer(8));
  head.setUint32(0, content.length);
  [...name].forEach((letter, i) => head.setUint8(4 + i, letter.charCodeAt(0)));
  const tail = new DataView(new ArrayBuffer(4));
  tail.setUint32(0, ~crc(content, crc(new Uint8Array(head.buffer, 4), -1)));
  return [head, content, tail];
}

function crc(bytes, start) {
  let value = start;
  for (let i = 0; i < bytes.length; i++) value = CRCS[(value ^ bytes[i]) & 255] ^ (value >>> 8);
  return value;
}

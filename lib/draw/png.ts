/** Encodes pictures as PNG, with the `parameters` text that A1111 and others read. */
import { crc32 } from 'node:zlib'
import sharp from 'sharp'
import { LorafuseError } from '../errors.js'

/** sRGB bytes `[height, width, 3]`. */
export interface Picture {
  width: number
  height: number
  data: Uint8Array
}

const SIGNATURE = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a)

/** Rounds pixels `[height, width, 3]`, nominally in [−1, 1], as huggingface/diffusers:src/diffusers/image_processor.py. */
export function toPicture(pixels: Float32Array, width: number, height: number): Picture {
  // Uint8ClampedArray rounds halves to even and clamps.
  const data = new Uint8ClampedArray(pixels.length)
  for (let i = 0; i < pixels.length; i++) data[i] = ((pixels[i] as number) / 2 + 0.5) * 255
  return { width, height, data: new Uint8Array(data.buffer) }
}

/** Arranges pictures of `w` × `h` in rows, with `gap` white pixels between them. */
export function tile(rows: Picture[][], w: number, h: number, gap: number): Picture {
  const columns = Math.max(...rows.map((row) => row.length))
  const width = columns * (w + gap) - gap
  const height = rows.length * (h + gap) - gap
  const data = new Uint8Array(width * height * 3).fill(255)
  rows.forEach((row, i) => {
    row.forEach((picture, j) => {
      for (let y = 0; y < h; y++) {
        const to = ((i * (h + gap) + y) * width + j * (w + gap)) * 3
        data.set(picture.data.subarray(y * w * 3, (y + 1) * w * 3), to)
      }
    })
  })
  return { width, height, data }
}

/** Encodes a picture, with its `parameters` if given. */
export async function encodePng({ width, height, data }: Picture, parameters?: string): Promise<Uint8Array> {
  const png = await sharp(data, { raw: { width, height, channels: 3 } })
    .png()
    .toBuffer()
  return parameters === undefined ? png : withText(png, 'parameters', parameters)
}

function chunk(type: string, body: Uint8Array): Uint8Array {
  const bytes = Buffer.alloc(12 + body.length)
  bytes.writeUInt32BE(body.length)
  bytes.write(type, 4, 'latin1')
  bytes.set(body, 8)
  bytes.writeUInt32BE(crc32(bytes.subarray(4, -4)), 8 + body.length)
  return bytes
}

/** Iterates over the chunks of a PNG; `end` is where the next one begins. Throws `PNG_INVALID`. */
function* chunks(png: Uint8Array): Generator<{ type: string; body: Uint8Array; end: number }> {
  const invalid = () => new LorafuseError('PNG_INVALID', 'Expected a whole PNG but received other bytes')
  if (!SIGNATURE.every((byte, i) => png[i] === byte)) throw invalid()
  const view = new DataView(png.buffer, png.byteOffset, png.byteLength)
  for (let at = SIGNATURE.length; at < png.length; ) {
    if (at + 12 > png.length) throw invalid()
    const end = at + 12 + view.getUint32(at)
    if (end > png.length || crc32(png.subarray(at + 4, end - 4)) !== view.getUint32(end - 4)) throw invalid()
    yield { type: Buffer.from(png.subarray(at + 4, at + 8)).toString('latin1'), body: png.subarray(at + 8, end - 4), end }
    at = end
  }
}

/**
 * Adds a text after the header: `tEXt` if Latin-1 has all its characters, otherwise `iTXt` in UTF-8, as Pillow does for A1111
 * (python-pillow/Pillow:src/PIL/PngImagePlugin.py, PngInfo.add_text). Format: https://www.w3.org/TR/png-3/#11textinfo
 */
export function withText(png: Uint8Array, keyword: string, text: string): Uint8Array {
  // U+0000 would end the text early.
  const plain = text.replaceAll('\0', '')
  const latin = Buffer.from(plain, 'latin1').toString('latin1') === plain
  const body = latin ? Buffer.from(`${keyword}\0${plain}`, 'latin1') : Buffer.from(`${keyword}\0\0\0\0\0${plain}`, 'utf8')
  const [header] = chunks(png)
  const { end } = header as { end: number }
  return Buffer.concat([png.subarray(0, end), chunk(latin ? 'tEXt' : 'iTXt', body), png.subarray(end)])
}

/** Reads the uncompressed texts of a PNG, by keyword. Throws `PNG_INVALID`. */
export function readTexts(png: Uint8Array): Map<string, string> {
  const texts = new Map<string, string>()
  for (const { type, body } of chunks(png)) {
    if (type !== 'tEXt' && type !== 'iTXt') continue
    const [keyword, ...parts] = Buffer.from(body).toString('latin1').split('\0')
    if (type === 'tEXt') texts.set(keyword as string, parts.join('\0'))
    // Keyword, NUL, compression flag and method, language, NUL, translated keyword, NUL, text.
    else if (body[(keyword as string).length + 1] === 0)
      texts.set(keyword as string, Buffer.from(parts.slice(4).join('\0'), 'latin1').toString('utf8'))
  }
  return texts
}

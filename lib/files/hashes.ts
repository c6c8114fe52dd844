/** The hashes by which kohya and A1111 know models and LoRA files. */
import { createHash } from 'node:crypto'
import { type Turn, turns } from '../turns.js'
import { openFile, pathError } from './read.js'
import { headerBytes, type PackedTensors } from './safetensors.js'

const WHAT = 'a weight file'
/** A1111's old model hash covers the 64 KiB after the first mebibyte. */
const LEGACY_BEGIN = 0x100000
const LEGACY_END = 0x110000
/** How many bytes are hashed between two turns: about a millisecond. */
const PIECE = 2 ** 20

/**
 * Returns the sha256, in hex, of files one after the other, or of their bytes `start` to `end`, both included. Throws as `openFile`, or the
 * signal's reason.
 */
export async function hashFiles(
  paths: string[],
  { signal, ...range }: { start?: number; end?: number; signal?: AbortSignal | undefined } = {},
): Promise<string> {
  const hash = createHash('sha256')
  for (const path of paths) {
    const file = await openFile(path, WHAT)
    try {
      for await (const chunk of file.createReadStream({ ...range, highWaterMark: 2 ** 20, autoClose: false })) {
        signal?.throwIfAborted()
        hash.update(chunk as Uint8Array)
      }
    } catch (cause) {
      signal?.throwIfAborted()
      throw pathError(WHAT, path, cause)
    } finally {
      await file.close()
    }
  }
  return hash.digest('hex')
}

/** Returns A1111's old model hash: the first 8 hex digits of the sha256 of bytes 0x100000 to 0x10FFFF. Throws as `hashFiles`. */
export async function legacyHash(path: string, signal?: AbortSignal): Promise<string> {
  return (await hashFiles([path], { start: LEGACY_BEGIN, end: LEGACY_END - 1, signal })).slice(0, 8)
}

/** Returns the sha256, in hex, of texts and of the bytes of arrays, one after the other, in pieces. */
export async function hashParts(parts: Iterable<string | Uint8Array | Float32Array>, turn: Turn = turns()): Promise<string> {
  const hash = createHash('sha256')
  for (const part of parts) {
    const bytes = typeof part === 'string' ? Buffer.from(part) : new Uint8Array(part.buffer, part.byteOffset, part.byteLength)
    for (let begin = 0; begin < bytes.length; begin += PIECE) {
      hash.update(bytes.subarray(begin, begin + PIECE))
      await turn()
    }
  }
  return hash.digest('hex')
}

/**
 * Returns kohya's two hashes of a LoRA. `model` (`sshs_model_hash`) is the sha256 of the bytes after the header; `legacy`
 * (`sshs_legacy_hash`) is the `legacyHash` of the file as it would be with the `ss_*` metadata alone
 * (kohya-ss/sd-scripts:library/train_util.py, precalculate_safetensors_hashes).
 */
export async function hashTensors(tensors: PackedTensors, metadata: Record<string, string>): Promise<{ model: string; legacy: string }> {
  const trained = Object.fromEntries(Object.entries(metadata).filter(([key]) => key.startsWith('ss_')))
  const legacy = createHash('sha256')
  let at = 0
  for (const bytes of [headerBytes(tensors, trained), ...tensors.data]) {
    legacy.update(bytes.subarray(Math.max(0, LEGACY_BEGIN - at), Math.max(0, LEGACY_END - at)))
    at += bytes.length
  }
  return { model: await hashParts(tensors.data), legacy: legacy.digest('hex').slice(0, 8) }
}

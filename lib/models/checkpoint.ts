/** Reads what a weight file of any format holds, and lists its weights for the core. */
import { LorafuseError, shown } from '../errors.js'
import { openFile, pathError, readRange } from '../files/read.js'
import { BRACE, readHeader } from '../files/safetensors.js'
import type { WeightEntry, WeightFile } from '../native.js'
import { type Checkpoint, type CheckpointTensor, readTorchFile, unreadable } from './torch-file.js'

export type { Checkpoint } from './torch-file.js'

const ZIP = '504b0304'
/** A pickle of protocol 2 or later. */
const PICKLE = /^800[2-5]/

/** Reads `length` bytes at `offset`, fewer where the file ends before. `what`: what was expected. Throws as `openFile`. */
export async function readPart(path: string, what: string, offset: number, length: number): Promise<Uint8Array> {
  const file = await openFile(path, what)
  try {
    return await readRange(file, offset, length)
  } catch (cause) {
    throw pathError(what, path, cause)
  } finally {
    await file.close()
  }
}

/**
 * Lists the tensors of a safetensors file or of one that `torch.save` wrote; the bytes tell which it is. `what`: what was expected. Throws as
 * `readHeader` and `readTorchFile`.
 */
export async function readCheckpoint(path: string, what: string): Promise<Checkpoint> {
  const begin = await readPart(path, what, 0, 9)
  const hex = Buffer.from(begin).toString('hex')
  const isZip = hex.startsWith(ZIP)
  if (begin[8] !== BRACE && (isZip || PICKLE.test(hex))) return readTorchFile(path, what, isZip)
  const { metadata, tensors } = await readHeader(path, what)
  return { path, metadata, tensors }
}

/** The types that the core reads. */
const FLOATS: readonly string[] = ['F32', 'F16', 'BF16', 'F8_E4M3', 'F8_E5M2'] satisfies WeightEntry['dtype'][]

/** What becomes of a tensor under the core's name. Throws where it cannot be used as it lies in the file. */
function weightOf({ name: theirs, dtype, shape, offset, problem }: CheckpointTensor, name: string, path: string): WeightEntry {
  if (problem !== undefined) throw unreadable(path, `tensor ${shown(theirs)} whole and in its order but ${problem}`)
  if (!FLOATS.includes(dtype)) {
    const expected = `Expected ${FLOATS.slice(0, -1).join(', ')} or ${FLOATS.at(-1)} for tensor ${shown(theirs)} in ${path}`
    throw new LorafuseError('MODEL_UNSUPPORTED', `${expected} but received ${dtype}; use the model's weights in one of them, such as fp16`)
  }
  return { name, dtype: dtype as WeightEntry['dtype'], shape, offset }
}

/** ComfyUI's factors of weights in 8 bits (comfy/utils.py, comfy/ops.py). */
const SCALED = /(^|\.)(scaled_fp8|scale_weight|weight_scale)$/

/** Whether a tensor holds integers that are no weights; those of a quantized network are weights by their names. */
const isBuffer = ({ name, dtype }: CheckpointTensor) => /^[IU]\d|^BOOL$/.test(dtype) && !/(^|\.)(weight|bias)$/.test(name)

/** OpenCLIP's q, k and v in one: their rows lie one after the other. */
const IN_PROJECTION = /^(.*)\.attn\.in_proj_(weight|bias)$/

/** Returns the parts of a tensor that holds q, k and v in one; `layer`: the core's name of its layer. */
function thirds(path: string, weight: WeightEntry, layer: string, kind: string, byteLength: number): WeightEntry[] {
  const [rows = 0, ...rest] = weight.shape
  if (rows % 3 !== 0) {
    const message = `Expected as many rows of q, k and v in tensor ${shown(weight.name)} in ${path} but received the shape ${shown(weight.shape)}`
    throw new LorafuseError('MODEL_INVALID', message)
  }
  return ['q', 'k', 'v'].map((part, i) => ({
    ...weight,
    name: `${layer}.self_attn.${part}_proj.${kind}`,
    shape: [rows / 3, ...rest],
    offset: weight.offset + i * (byteLength / 3),
  }))
}

/**
 * Lists the weights of a network. `ourName`: the core's name of a tensor, undefined for those that are not the network's or may be left out.
 * Integers that are no weights (`position_ids`) are left out. Throws `MODEL_UNSUPPORTED` and `PICKLE_UNSUPPORTED` for weights that cannot be used.
 */
export function weightsOf({ path, tensors }: Checkpoint, ourName: (name: string) => string | undefined): WeightFile {
  const scaled = tensors.find(({ name }) => SCALED.test(name))
  if (scaled) {
    const message = `Expected weights without scales in ${path} but received ${shown(scaled.name)}; use the checkpoint in fp16 or plain fp8`
    throw new LorafuseError('MODEL_UNSUPPORTED', message)
  }
  const weights = tensors.flatMap((tensor) => {
    if (isBuffer(tensor)) return []
    const [, theirLayer, kind] = IN_PROJECTION.exec(tensor.name) ?? []
    const [, layer] = /^(.*)\.layer_norm1$/.exec((theirLayer && ourName(`${theirLayer}.ln_1`)) ?? '') ?? []
    if (layer && kind) return thirds(path, weightOf(tensor, layer, path), layer, kind, tensor.byteLength)
    const name = ourName(tensor.name)
    return name === undefined ? [] : [weightOf(tensor, name, path)]
  })
  return { path, tensors: weights }
}

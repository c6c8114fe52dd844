/** Tells what a file is that is not what was expected: by its first bytes. */
import { shown } from '../errors.js'

/** What a file is instead, and what to do about it. */
export interface Disguise {
  kind: string
  advice: string
}

/** How many first bytes are enough to tell. */
export const DISGUISE_BYTES = 512

const PICKLE = 'it may run code; save the weights as safetensors'

/** Binary files by their first bytes in hex. */
const BINARIES: [begins: RegExp, disguise: Disguise][] = [
  [/^504b0304/, { kind: 'a zip archive, as PyTorch writes pickles', advice: PICKLE }],
  [/^800[2-5](?!00)/, { kind: 'a pickle', advice: PICKLE }],
  [/^47475546/, { kind: 'a GGUF file', advice: 'use the safetensors file of the same weights' }],
  [/^(1f8b|377abcaf|52617221|28b52ffd)/, { kind: 'a compressed archive', advice: 'unpack it first' }],
  [/^(89504e47|ffd8ff|52494646)/, { kind: 'a picture', advice: 'correct the path' }],
]

const TEXTS: [begins: RegExp, disguise: Disguise][] = [
  [/^version https:\/\/git-lfs/, { kind: 'a Git LFS pointer', advice: 'fetch the file itself with git lfs pull' }],
  [/^\s*<(!doctype|html|head|body|\?xml|!--)/i, { kind: 'a web page', advice: 'download the file itself; the site may ask for a login' }],
]

/** Names what begins with these bytes; undefined if it is nothing that is known, or JSON. */
export function disguiseOf(bytes: Uint8Array): Disguise | undefined {
  const begin = Buffer.from(bytes.subarray(0, DISGUISE_BYTES))
  const [hex, text] = [begin.toString('hex', 0, 8), begin.toString('latin1')]
  const [, known] = BINARIES.find(([begins]) => begins.test(hex)) ?? TEXTS.find(([begins]) => begins.test(text)) ?? []
  if (known || !/^[\t\n\r -~]+$/.test(text) || /^\s*[{[]/.test(text)) return known
  return { kind: `the text ${shown(text.trim())}`, advice: 'download the file again' }
}

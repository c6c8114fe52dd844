/**
 * GPUs that a plan can be made for without having one, a row each. Numbers are those that NVIDIA specifies, at the boost clock: the
 * architecture's whitepaper or datasheet above the rows.
 */
import type { Kind } from './values.js'

export interface Card {
  /** As people write it; cards of one name differ in memory. */
  name: string
  /** GiB of memory, as in the name that it is sold by. */
  gib: number
  computeCapability: number
  multiprocessors: number
  /**
   * Operations a second of the tensor cores with 16-bit factors and f32 sums, without sparsity; fp16, and bf16 from 8.0 on. GeForce cards run
   * them at half the rate of f16 sums.
   */
  tensor: number
  /** Operations a second in f32. */
  f32: number
  /** Bytes of memory a second. */
  bandwidth: number
  /** What makes the estimate worse than that of other cards. */
  note?: string
}

/** Our kernels use `mma`, which on Hopper reaches 63 % of what `wgmma` does (Luo et al., arXiv:2402.13499). */
const HOPPER = 0.63

export const cards: readonly Card[] = [
  // Turing: "NVIDIA Turing GPU Architecture", WP-09183-001; GTX 1660, RTX 2060: the product pages (multiprocessors and clocks); T4: DS-09179-001.
  {
    ...{ name: 'GTX 1660', gib: 6, computeCapability: 75, multiprocessors: 22, tensor: 10.05e12, f32: 5.03e12, bandwidth: 192e9 },
    note: 'it has no tensor cores, and may take far longer',
  },
  { name: 'RTX 2060', gib: 6, computeCapability: 75, multiprocessors: 30, tensor: 25.8e12, f32: 6.45e12, bandwidth: 336e9 },
  { name: 'RTX 2070', gib: 8, computeCapability: 75, multiprocessors: 36, tensor: 29.9e12, f32: 7.46e12, bandwidth: 448e9 },
  { name: 'RTX 2080 Ti', gib: 11, computeCapability: 75, multiprocessors: 68, tensor: 53.8e12, f32: 13.4e12, bandwidth: 616e9 },
  // 16 GiB, of which error correction takes a sixteenth.
  {
    ...{ name: 'T4', gib: 15, computeCapability: 75, multiprocessors: 40, tensor: 65e12, f32: 8.1e12, bandwidth: 320e9 },
    note: 'its 70 W do not sustain the boost clock, so it takes longer',
  },
  // Ampere: "NVIDIA Ampere GA102 GPU Architecture"; RTX 3060, 3080 12 GB: the product pages; "NVIDIA A100 Tensor Core GPU Architecture".
  { name: 'RTX 3060', gib: 12, computeCapability: 86, multiprocessors: 28, tensor: 25.5e12, f32: 12.7e12, bandwidth: 360e9 },
  { name: 'RTX 3080', gib: 10, computeCapability: 86, multiprocessors: 68, tensor: 59.5e12, f32: 29.8e12, bandwidth: 760e9 },
  { name: 'RTX 3080', gib: 12, computeCapability: 86, multiprocessors: 70, tensor: 61.3e12, f32: 30.6e12, bandwidth: 912e9 },
  { name: 'RTX 3090', gib: 24, computeCapability: 86, multiprocessors: 82, tensor: 71e12, f32: 35.6e12, bandwidth: 936e9 },
  { name: 'A100', gib: 40, computeCapability: 80, multiprocessors: 108, tensor: 312e12, f32: 19.5e12, bandwidth: 1555e9 },
  { name: 'A100', gib: 80, computeCapability: 80, multiprocessors: 108, tensor: 312e12, f32: 19.5e12, bandwidth: 2039e9 },
  // Ada: "NVIDIA Ada GPU Architecture", appendix A; RTX 4060 Ti, 4070: the product pages.
  { name: 'RTX 4060 Ti', gib: 8, computeCapability: 89, multiprocessors: 34, tensor: 44.1e12, f32: 22.1e12, bandwidth: 288e9 },
  { name: 'RTX 4060 Ti', gib: 16, computeCapability: 89, multiprocessors: 34, tensor: 44.1e12, f32: 22.1e12, bandwidth: 288e9 },
  { name: 'RTX 4070', gib: 12, computeCapability: 89, multiprocessors: 46, tensor: 58.3e12, f32: 29.1e12, bandwidth: 504e9 },
  { name: 'RTX 4090', gib: 24, computeCapability: 89, multiprocessors: 128, tensor: 165.2e12, f32: 82.6e12, bandwidth: 1008e9 },
  // Hopper, as SXM where the name does not tell: "NVIDIA H100 Tensor Core GPU Architecture"; H200: its datasheet, 141 GB.
  { name: 'H100', gib: 80, computeCapability: 90, multiprocessors: 132, tensor: HOPPER * 989.4e12, f32: 66.9e12, bandwidth: 3352e9 },
  { name: 'H100 PCIe', gib: 80, computeCapability: 90, multiprocessors: 114, tensor: HOPPER * 756e12, f32: 51.2e12, bandwidth: 2039e9 },
  { name: 'H200', gib: 140, computeCapability: 90, multiprocessors: 132, tensor: HOPPER * 989.4e12, f32: 66.9e12, bandwidth: 4800e9 },
  // Blackwell: "NVIDIA RTX Blackwell GPU Architecture".
  { name: 'RTX 5090', gib: 32, computeCapability: 120, multiprocessors: 170, tensor: 209.5e12, f32: 104.8e12, bandwidth: 1792e9 },
]

const several = ({ name }: Card) => cards.filter((other) => other.name === name).length > 1

/** Names a card, with its memory where its name alone does not tell: `RTX 3080 12 GB`. */
export const nameOf = (card: Card) => (several(card) ? `${card.name} ${card.gib} GB` : card.name)

/** What is the same name: in any case, with or without maker, series, form and unit, as `NVIDIA GeForce RTX 3060` and `3060`. */
export const foldCard = (name: string) =>
  name.toLowerCase().replace(/nvidia|geforce|tesla|rtx|gtx|sxm\d?|hbm\d?e?|(?<=\d) ?gi?b?|[\s_-]/g, '')

/** Finds a card by its name, or by its name and memory; of several the first, which has least memory. Only some are another as PCIe. */
export function findCard(name: string): Card | undefined {
  const find = (wanted: string) => cards.find((card) => [card.name, `${card.name} ${card.gib}`].map(foldCard).includes(wanted))
  return find(foldCard(name)) ?? find(foldCard(name).replace('pcie', ''))
}

const names = cards.map(nameOf)

/** A card by its name. */
export const card: Kind<string, Card> = {
  type: 'choice',
  words: names,
  expected: `${names.slice(0, -1).join(', ')} or ${names.at(-1)}`,
  placeholder: 'CARD',
  accept: (input) => (typeof input === 'string' ? findCard(input) : undefined),
}

/**
 * Bytes of a card that are not to be had: the driver's context and the code of our kernels, about 300 MiB, and as much for a desktop.
 * Real ones differ: this is for plans alone, as on a GPU the driver says what is free.
 */
export const RESERVED_BYTES = 600 * 2 ** 20

export const memoryOf = ({ gib }: Card) => gib * 2 ** 30

/** How many bytes of a card a training is taken to have. */
export const freeBytes = (card: Card) => memoryOf(card) - RESERVED_BYTES

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { card, cards, findCard, foldCard, freeBytes, nameOf, RESERVED_BYTES } from '../../../lib/options/cards.js'
import { resolvePlanOptions } from '../../../lib/options/resolve.js'

test('every card has a name of its own, and numbers that go together', () => {
  assert.equal(new Set(cards.map(nameOf).map(foldCard)).size, cards.length)
  for (const { name, gib, computeCapability, multiprocessors, tensor, f32, bandwidth, note } of cards) {
    assert.match(name, /^(GTX \d{4}|RTX \d{4}( Ti)?|[ATH]\d+( PCIe)?)$/)
    assert.ok(Number.isInteger(gib) && gib >= 6 && gib <= 160, name)
    assert.ok([75, 80, 86, 89, 90, 120].includes(computeCapability), name)
    assert.ok(Number.isInteger(multiprocessors) && multiprocessors >= 20 && multiprocessors <= 200, name)
    // Twice the f32 rate, or four times on Turing and up to sixteen on cards for data centres.
    assert.ok(tensor >= 1.9 * f32 && tensor <= 16.1 * f32, name)
    // FLOP a multiprocessor and second: 64 or 128 lanes at 1.2 to 2.8 GHz.
    const lanes = f32 / multiprocessors / 2 / ([75, 80].includes(computeCapability) ? 64 : 128)
    assert.ok(lanes > 1.2e9 && lanes < 2.8e9, `${name} at ${lanes} Hz`)
    assert.ok(bandwidth >= 150e9 && bandwidth <= 5e12, name)
    assert.ok(note === undefined || /^it/.test(note), name)
  }
  const { tensor, bandwidth, multiprocessors } = findCard('RTX 2080 Ti')!
  assert.deepEqual([tensor, bandwidth, multiprocessors], [53.8e12, 616e9, 68])
})

test('a card is found by its name as people and drivers write it', () => {
  const found = (name: string) => card.accept(name) && nameOf(card.accept(name)!)
  for (const one of cards) {
    assert.equal(found(nameOf(one)), nameOf(one))
    assert.equal(card.accept(`${one.name} ${one.gib}GB`), one)
  }
  assert.deepEqual(['NVIDIA H100 PCIe', 'NVIDIA A100-PCIE-40GB'].map(found), ['H100 PCIe', 'A100 40 GB'])
  for (const name of ['rtx 2080 ti', 'RTX2080Ti', '2080ti', 'NVIDIA GeForce RTX 2080 Ti', 'geforce-rtx-2080-ti 11 GB'])
    assert.equal(found(name), 'RTX 2080 Ti', name)
  assert.equal(found('RTX 3060 12GB'), 'RTX 3060')
  assert.equal(found('4060 Ti 16G'), 'RTX 4060 Ti 16 GB')
  assert.equal(found('NVIDIA A100-SXM4-80GB'), 'A100 80 GB')
  assert.equal(found('NVIDIA H100 80GB HBM3'), 'H100')
  assert.equal(found('Tesla T4'), 'T4')
  // Of two sizes the smaller one.
  for (const [name, smaller] of [
    ['RTX 3080', '10'],
    ['4060 Ti', '8'],
    ['A100', '40'],
  ])
    assert.match(found(name!)!, new RegExp(` ${smaller} GB$`))
})

test('another card is refused, with those that are known', () => {
  for (const gpu of ['RTX 9999', '', 'GTX 1080', '3060 7 GB', 2080])
    assert.throws(() => resolvePlanOptions({ model: 'm', imageCount: 1, gpu }), {
      code: 'OPTION_INVALID',
      message: /^Expected GTX 1660, RTX 2060, .*RTX 3080 10 GB, RTX 3080 12 GB, .* or RTX 5090 for gpu but received /,
    })
  assert.throws(() => resolvePlanOptions({ model: 'm', imageCount: 1, gpu: 'T4', device: 'cpu' }), {
    code: 'OPTION_INVALID',
    message: 'Expected cuda beside gpu for device but received "cpu"',
  })
})

test('a part of a card is not counted on', () => {
  assert.equal(freeBytes(findCard('RTX 2080 Ti')!), 11 * 2 ** 30 - RESERVED_BYTES)
})

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { native } from '../../lib/native.js'
import { findCard } from '../../lib/options/cards.js'
import { plan } from '../../lib/train/plan.js'
import { temporaryFolder } from '../fixtures/temporary.js'
import { goldenModel } from '../train/hollow.js'
import { hasGpu } from './emulated.js'

/** A GPU like the card, which the emulator is. */
const card = findCard('RTX 2080 Ti')!
process.env.PTXEMU_MULTIPROCESSORS = `${card.multiprocessors}`

if (hasGpu()) {
  // Measuring an emulated GPU takes minutes.
  const addon = native()
  addon.Session = class extends addon.Session {
    override async speeds() {
      return { bytes: 1e9, flops: { mat_mul: 1e9, conv2d: 1e9, attention: 1e9, attention_grad: 1e9 } }
    }
  }
  for (const name of ['golden-sd1-model', 'golden-sdxl-model']) {
    test(`the plan of ${name} for a named card is that of the card itself, to the byte`, async (t) => {
      const given = { model: await goldenModel(name), output: await temporaryFolder(t), imageCount: 3, resolution: 256, rank: 4, steps: 2 }
      const more = [
        {},
        { batchSize: 3, convRank: 2 },
        { gradientCheckpointing: true },
        { precision: 'f32' as const, targets: 'attention' as const },
      ]
      for (const change of more) {
        const named = await plan({ ...given, ...change, gpu: 'RTX 2080 Ti' })
        const real = await plan({ ...given, ...change, device: 'cuda' })
        const planned = ({ bytes, flops, traffic, largest, timeline }: typeof real) => ({ bytes, flops, traffic, largest, timeline })
        assert.deepEqual(planned(named), planned(real))
      }
    })
  }
}

import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { insteadOf, insteadOfAll } from '../../../lib/options/kohya.js'
import type { Row } from '../../../lib/options/rows.js'
import { trainTable } from '../../../lib/options/table.js'

const own = Object.values(trainTable).flatMap(({ kohya = [] }: { kohya?: string[] }) => kohya)

test("advice is for kohya's options that are none here, once each, and names options that there are", () => {
  const names = insteadOfAll()
  assert.ok(names.length > 80)
  assert.equal(new Set(names).size, names.length)
  for (const name of names) {
    assert.ok(!own.includes(name), name)
    assert.ok(insteadOf(name, (option) => (Object.hasOwn(trainTable, option) ? option : assert.fail(option))))
  }
  assert.equal(
    insteadOf('toString', (option) => option),
    undefined,
  )
})

/**
 * The options of sd-scripts 0.10.1's train_network.py and sdxl_train_network.py that are options here, with kohya's defaults; and
 * `stop_text_encoder_training` of train_db.py.
 */
const defaults: Record<string, unknown> = {
  ...{ pretrained_model_name_or_path: undefined, vae: undefined, train_data_dir: undefined, output_dir: undefined, output_name: 'last' },
  ...{ resolution: undefined, enable_bucket: false, min_bucket_reso: 256, max_bucket_reso: 1024, bucket_reso_steps: 64 },
  ...{ bucket_no_upscale: false, random_crop: false, flip_aug: false, caption_extension: '.caption' },
  ...{ max_train_steps: 1600, max_train_epochs: undefined, train_batch_size: 1, gradient_accumulation_steps: 1 },
  ...{ network_dim: 4, network_alpha: 1, learning_rate: 2e-6, text_encoder_lr: 2e-6 },
  ...{ network_train_unet_only: undefined, network_train_text_encoder_only: undefined, stop_text_encoder_training: undefined },
  ...{ lr_scheduler: 'constant', lr_warmup_steps: 0, max_grad_norm: 1, clip_skip: 1, max_token_length: 75, zero_terminal_snr: false },
  ...{ seed: undefined, save_every_n_steps: undefined, save_every_n_epochs: undefined, save_precision: 'float', resume: undefined },
  ...{ mixed_precision: 'no', gradient_checkpointing: false },
}

/** All other options of the two scripts. */
const others = `
  v2 v_parameterization tokenizer_cache_dir optimizer_type use_8bit_adam use_lion_optimizer optimizer_args optimizer_schedulefree_wrapper
  schedulefree_wrapper_args lr_scheduler_type lr_scheduler_args lr_decay_steps lr_scheduler_num_cycles lr_scheduler_power fused_backward_pass
  lr_scheduler_timescale lr_scheduler_min_lr_ratio huggingface_repo_id huggingface_repo_type huggingface_path_in_repo huggingface_token
  huggingface_repo_visibility save_state_to_huggingface resume_from_huggingface async_upload save_n_epoch_ratio save_last_n_epochs
  save_last_n_epochs_state save_last_n_steps save_last_n_steps_state save_state save_state_on_train_end mem_eff_attn torch_compile
  dynamo_backend xformers sdpa max_data_loader_n_workers persistent_data_loader_workers full_fp16 full_bf16 fp8_base ddp_timeout
  ddp_gradient_as_bucket_view ddp_static_graph logging_dir log_with log_prefix log_tracker_name wandb_run_name log_tracker_config wandb_api_key
  log_config noise_offset noise_offset_random_strength multires_noise_iterations ip_noise_gamma ip_noise_gamma_random_strength perlin_noise
  multires_noise_discount adaptive_noise_scale min_timestep max_timestep loss_type huber_schedule huber_c huber_scale lowram highvram
  sample_every_n_steps sample_at_first sample_every_n_epochs sample_prompts sample_sampler config_file output_config prior_loss_weight
  conditioning_data_dir masked_loss cache_info shuffle_caption caption_separator caption_extention keep_tokens keep_tokens_separator
  secondary_separator enable_wildcard caption_prefix caption_suffix color_aug face_crop_aug_range debug_dataset cache_latents vae_batch_size
  cache_latents_to_disk skip_cache_check resize_interpolation token_warmup_min token_warmup_step alpha_mask dataset_class caption_dropout_rate
  caption_dropout_every_n_epochs caption_tag_dropout_rate reg_data_dir in_json dataset_repeats metadata_title metadata_author
  metadata_description metadata_license metadata_tags metadata_usage_hint metadata_thumbnail metadata_merged_from metadata_trigger_phrase
  metadata_preprocessor metadata_is_negative_embedding deepspeed zero_stage offload_optimizer_device offload_optimizer_nvme_path
  offload_param_device offload_param_nvme_path zero3_init_flag zero3_save_16bit_model fp16_master_weights_and_gradients dataset_config
  min_snr_gamma scale_v_pred_loss_like_noise_pred v_pred_like_loss debiased_estimation_loss weighted_captions cpu_offload_checkpointing
  no_metadata save_model_as unet_lr fp8_base_unet network_weights network_module network_dropout network_args training_comment
  dim_from_weights scale_weight_norms base_weights base_weights_multiplier no_half_vae skip_until_initial_step initial_epoch initial_step
  validation_seed validation_split validate_every_n_steps validate_every_n_epochs max_validation_steps console_log_level console_log_file
  console_log_simple cache_text_encoder_outputs cache_text_encoder_outputs_to_disk disable_mmap_load_safetensors`

test("each of kohya's options is one here, or there is advice for it", () => {
  assert.deepEqual(own.toSorted(), Object.keys(defaults).sort())
  const names = insteadOfAll()
  assert.deepEqual(
    others.split(/\s+/).filter((name) => name !== '' && !names.includes(name)),
    [],
  )
})

const rowOf = (name: string) => Object.values<Row>(trainTable).find(({ kohya = [] }) => kohya.includes(name))!
const documented = async () => {
  const text = await readFile(join(fileURLToPath(new URL('../../../..', import.meta.url)), 'docs/kohya.md'), 'utf8')
  const rows = text
    .slice(text.indexOf('## Defaults'), text.indexOf('## What else'))
    .matchAll(/^\| `--([a-z_]+)` \| ([^|]+) \| ([^|]+) \|/gm)
  return new Map([...rows].map(([, name, theirs, ours]) => [name, { theirs, ours }]))
}

test("docs/kohya.md names each option whose default is not kohya's, and the default that it has here", async () => {
  const rows = await documented()
  for (const [name, theirs] of Object.entries(defaults)) {
    const ours = rowOf(name).default?.()
    assert.equal(rows.has(name), ours !== theirs, name)
    const [, written] = /^`([^`]+)`$/.exec(rows.get(name)?.ours ?? '') ?? []
    if (written !== undefined) assert.equal(String(ours), written, name)
  }
})

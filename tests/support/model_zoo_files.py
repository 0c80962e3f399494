"""The configuration files of MindSpore's model zoo as its users have them: the keys and values of each release."""
from pathlib import Path
from typing import Any

import yaml

EXAMPLE = "./mobilenetv2-200_625.ckpt"

# What all its files state.
COMMON: dict[str, Any] = {
    "enable_modelarts": False, "data_url": "", "train_url": "", "checkpoint_url": "", "data_path": "/cache/data",
    "output_path": "/cache/train", "load_path": "/cache/checkpoint_path", "checkpoint_path": "./checkpoint/",
    "device_target": "Ascend", "enable_profiling": False, "modelarts_dataset_unzip_name": "ImageNet_Original",
    "need_modelarts_dataset_unzip": True, "num_classes": 1000, "image_height": 224, "image_width": 224,
    "batch_size": 256, "epoch_size": 200, "warmup_epochs": 4, "lr_init": 0.0, "lr_end": 0.0, "lr_max": 0.4,
    "momentum": 0.9, "weight_decay": 0.00004, "label_smooth": 0.1, "loss_scale": 1024, "save_checkpoint": True,
    "save_checkpoint_epochs": 1, "keep_checkpoint_max": 200, "save_checkpoint_path": "./", "platform": "Ascend",
    "run_distribute": False, "activation": "Softmax", "dataset_path": "/cache/data", "pretrain_ckpt": "",
    "freeze_layer": "", "filter_head": False, "enable_cache": False, "cache_session_id": "", "is_training": True,
    "is_training_eval": False, "run_distribute_eval": False, "device_id_export": 0, "batch_size_export": 1,
    "ckpt_file": "/cache/train/mobilenetv2-200_625.ckpt", "file_name": "mobilenetv2", "file_format": "MINDIR",
    "is_training_export": False, "run_distribute_export": False, "batch_size_postprocess": 1, "result_path": "",
    "label_path": "",
}
LATER = {"device_id": 0, "rank_id": 0, "rank_size": 1, "num_workers": 32, "run_eval": False, "boost_mode": "O0"}
GPU = {"batch_size": 150, "warmup_epochs": 0, "lr_max": 0.8, "platform": "GPU"}
CPU = {**GPU, "device_target": "CPU", "platform": "CPU", "num_classes": 26, "epoch_size": 15, "lr_end": 0.03,
       "lr_max": 0.03, "keep_checkpoint_max": 20, "num_workers": 8}

# What each of them states besides, or otherwise.
FILES: dict[str, dict[str, Any]] = {
    "first/default_config.yaml": {
        "pretrain_ckpt": EXAMPLE, "device_id": "int(os.getenv('DEVICE_ID', '0'))",
        "rank_id": "int(os.getenv('RANK_ID', '0'))", "rank_size": "int(os.getenv('RANK_SIZE', '1'))",
        "run_distribute": "int(os.getenv('RANK_SIZE', '1')) > 1."},
    "first/default_config_gpu.yaml": {**GPU, "pretrain_ckpt": EXAMPLE},
    "middle/default_config_acc.yaml": {
        "device_id": 0, "rank_id": 0, "rank_size": 1, "num_workers": 32, "acc_mode": "O1", "run_eval": True,
        "save_checkpoint": False, "pretrain_ckpt": EXAMPLE},
    "middle/default_config_cpu.yaml": {**LATER, **CPU, "pretrain_ckpt": EXAMPLE},
    "last/default_config.yaml": LATER,
    "last/default_config_boost.yaml": {**LATER, "boost_mode": "O1", "save_checkpoint": False, "run_eval": True},
    "last/default_config_gpu.yaml": {**LATER, **GPU, "device_target": "GPU", "num_workers": 8},
    "last/default_config_cpu.yaml": {**LATER, **CPU},
}
# Their second and third documents: help texts and choices.
FURTHER = ({"data_url": "Dataset url for obs", "ann_file": "Ann file", "device_num": "Use device nums"},
           {"platform": ["Ascend", "GPU", "CPU"], "freeze_layer": ["", "none", "backbone"]})


def write_file(name: str, folder: Path) -> Path:
    """Write one of `FILES` to a folder."""
    path = folder / Path(name).name
    path.write_text(yaml.safe_dump_all([{**COMMON, **FILES[name]}, *FURTHER], sort_keys=False), encoding="utf-8")
    return path

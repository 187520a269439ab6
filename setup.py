"""Only what setup.cfg cannot say: the start-up files go beside the package, where Python looks for them.

They are outputs of ``build_py``, so that RECORD lists them and ``pip uninstall`` removes them.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

START_UP_FILES = ["pyserini_llm_sparse.pth", "pyserini_llm_sparse.start"]


class BuildWithStartUpFiles(build_py):
    """Copy the start-up files to the top of the build folder, which becomes site-packages."""

    def run(self):
        """Build the modules, then copy the start-up files."""
        super().run()
        if not self.editable_mode:
            for name in START_UP_FILES:
                self.copy_file(name, str(Path(self.build_lib) / name), preserve_mode=False)

    def get_outputs(self, include_bytecode=True):
        """Return what an installation holds, the start-up files included."""
        return [*super().get_outputs(include_bytecode), *(str(Path(self.build_lib) / name) for name in START_UP_FILES)]

    def get_source_files(self):
        """Return what a source distribution must hold, the start-up files included."""
        return [*super().get_source_files(), *START_UP_FILES]


setup(cmdclass={"build_py": BuildWithStartUpFiles})

#pragma once
class G4VSensitiveDetector;
class G4SDManager {
public:
    static G4SDManager* GetSDMpointer();
    void AddNewDetector(G4VSensitiveDetector* detector);
};
